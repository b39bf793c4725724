package pubnub

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// controlPrefix is where the stand-in is told over HTTP what the methods of Server do in Go. It has no protection of its
// own: listen on the loopback interface.
const controlPrefix = "/_standin"

// control:
//
//	GET    /_standin                  keys, limits, counts
//	POST   /_standin/faults           Fault
//	DELETE /_standin/faults
//	GET    /_standin/published        ?channel=
//	GET    /_standin/requests
//	GET    /_standin/subscribers
//	POST   /_standin/publish          {"channel","uuid","message"}
//	POST   /_standin/outage           {"seconds"}: refuses connections for that long, state kept
//	POST   /_standin/forget           loses messages, groups, presence, faults
func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	ok := object{"ok": true}
	respond := func(status int, v any) {
		a := reply(status, v)
		a.contentType = "application/json"
		write(w, a)
	}
	refused := func(err error) { respond(http.StatusBadRequest, object{"ok": false, "error": err.Error()}) }

	switch r.Method + " " + strings.Trim(strings.TrimPrefix(r.URL.Path, controlPrefix), "/") {
	case "GET ":
		respond(http.StatusOK, object{
			"standin": ServerHeader, "publish_key": s.cfg.PublishKey, "subscribe_key": s.cfg.SubscribeKey,
			"buffer_size": s.cfg.BufferSize, "strict_wildcards": s.cfg.StrictWildcards, "requests": s.Requests(),
			"subscribers": len(s.Subscribers()), "lost": s.Lost(), "faults_served": s.FaultsServed(),
		})
	case "POST faults":
		var fault Fault
		if err := body.Decode(&fault); err != nil {
			refused(err)
			return
		}
		if err := s.Inject(fault); err != nil {
			refused(err)
			return
		}
		respond(http.StatusOK, ok)
	case "DELETE faults":
		s.ClearFaults()
		respond(http.StatusOK, ok)
	case "GET published":
		respond(http.StatusOK, s.Published(r.URL.Query().Get("channel")))
	case "GET requests":
		respond(http.StatusOK, s.Requests())
	case "GET subscribers":
		respond(http.StatusOK, s.Subscribers())
	case "POST publish":
		var m struct {
			Channel string          `json:"channel"`
			UUID    string          `json:"uuid"`
			Message json.RawMessage `json:"message"`
		}
		if err := body.Decode(&m); err != nil {
			refused(err)
			return
		}
		tt, err := s.Publish(m.Channel, m.UUID, m.Message)
		if err != nil {
			refused(err)
			return
		}
		respond(http.StatusOK, object{"timetoken": strconv.FormatInt(tt, 10)})
	case "POST outage":
		var outage struct {
			Seconds float64 `json:"seconds"`
		}
		if err := body.Decode(&outage); err != nil {
			refused(err)
			return
		}
		respond(http.StatusAccepted, ok)
		_ = http.NewResponseController(w).Flush() // the outage takes this connection down too
		s.background(func() { s.outage(time.Duration(outage.Seconds * float64(time.Second))) })
	case "POST forget":
		s.Forget()
		respond(http.StatusOK, ok)
	default:
		respond(http.StatusNotFound, object{"ok": false, "error": "no such control endpoint"})
	}
}

// outage is Pause and Resume for those who cannot reach the server in between.
func (s *Server) outage(length time.Duration) {
	s.Pause()
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		_ = s.Resume() // fails only when closed, or when the port was lost: then the outage lasts
	case <-s.done:
	}
}
