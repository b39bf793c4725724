package pubnub

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// call is one request, taken apart.
type call struct {
	http     *http.Request
	gone     <-chan struct{} // the server's front went down
	path     string          // escaped, as sent
	rawQuery string
	segments []string // of path, still escaped
	query    url.Values
	body     []byte // as sent
	family   string
	op       string
	channels []string // named by the path, unescaped
}

// answer is what goes back.
type answer struct {
	status      int
	contentType string
	body        []byte
	cut         bool // only half of the body is sent before the connection is closed
	abort       bool // nothing is sent, the connection is reset
}

type handler func(*Server, *call) answer

// router recognises the requests of one endpoint family, sets family, operation and channels, and returns nil for others.
type router func(*call) handler

const javascript = `text/javascript; charset="UTF-8"`

// reply encodes a body.
func reply(status int, body any) answer {
	encoded, err := encode(body)
	if err != nil {
		return answer{status: http.StatusInternalServerError, contentType: javascript, body: []byte(`{"status":500,"error":true}`)}
	}
	return answer{status: status, contentType: javascript, body: encoded}
}

// encode is JSON as the service writes it: without escaping <, > and &.
func encode(v any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return bytes.TrimRight(buffer.Bytes(), "\n"), nil
}

type object = map[string]any

// refuse is the error body of most families.
func refuse(status int, service, message string) answer {
	return reply(status, object{"status": status, "error": true, "service": service, "message": message})
}

func (s *Server) serve(f *front, w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Server", ServerHeader)
	header.Set("Cache-Control", "no-cache")
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE, OPTIONS")
	header.Set("Access-Control-Allow-Headers", "*")
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	if strings.HasPrefix(r.URL.Path, controlPrefix) {
		s.control(w, r)
		return
	}
	c, refused := s.read(r)
	c.gone = f.gone
	if refused != nil {
		write(w, *refused)
		return
	}
	write(w, s.dispatch(c))
}

// read takes the request apart. The service's routing and signatures work on the path as it was escaped by the client,
// which net/url does not always give back; so the request line itself is used. The Go SDK sends it in absolute form.
func (s *Server) read(r *http.Request) (*call, *answer) {
	c := &call{http: r}
	target := r.RequestURI
	if _, rest, absolute := strings.Cut(target, "://"); absolute && !strings.HasPrefix(target, "/") {
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			rest, slash = rest+"/", len(rest)
		}
		target = rest[slash:]
	}
	c.path, c.rawQuery, _ = strings.Cut(target, "?")
	c.segments = strings.Split(strings.TrimPrefix(c.path, "/"), "/")
	c.query = parseQuery(c.rawQuery)
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return c, &answer{abort: true}
	}
	if len(body) > maxBody {
		refused := reply(http.StatusRequestEntityTooLarge, []any{0, "Request Entity Too Large"})
		return c, &refused
	}
	c.body = body
	return c, nil
}

// parseQuery keeps '+' as it is: the SDKs escape spaces as %20 and send '+' of their own values bare.
func parseQuery(raw string) url.Values {
	values := make(url.Values)
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		values.Add(unescape(key), unescape(value))
	}
	return values
}

// unescape leaves what is not well escaped as it is: some SDK paths are not escaped at all.
func unescape(s string) string {
	plain, err := url.PathUnescape(s)
	if err != nil {
		return s
	}
	return plain
}

// inflated is the request body without its content encoding: the JavaScript SDK deflates what it posts.
func (c *call) inflated() ([]byte, error) {
	var (
		reader io.Reader
		err    error
	)
	switch encoding := c.http.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return c.body, nil
	case "deflate":
		reader, err = zlib.NewReader(bytes.NewReader(c.body))
	case "gzip":
		reader, err = gzip.NewReader(bytes.NewReader(c.body))
	default:
		return nil, fmt.Errorf("read body: content encoding %q is unknown", encoding)
	}
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(reader, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if len(body) > maxBody {
		return nil, errTooLarge
	}
	return body, nil
}

var errTooLarge = errors.New("read body: too large")

func (c *call) uuid() string { return c.query.Get("uuid") }

// flag reads the spellings of true that the two SDKs use.
func (c *call) flag(names ...string) bool {
	for _, name := range names {
		if v := c.query.Get(name); v == "true" || v == "1" {
			return true
		}
	}
	return false
}

// timetoken reads a parameter; present is false when it is missing or empty.
func (c *call) timetoken(name string) (tt int64, present bool, err error) {
	text := c.query.Get(name)
	if text == "" {
		return 0, false, nil
	}
	tt, err = strconv.ParseInt(text, 10, 64)
	if err != nil || tt < 0 {
		return 0, true, fmt.Errorf("parameter %s: not a timetoken", name)
	}
	return tt, true, nil
}

func (c *call) groupNames() []string { return splitList(c.query.Get("channel-group")) }

// dispatch finds the handler and wraps keys, signatures and faults around it.
func (s *Server) dispatch(c *call) answer {
	var handle handler
	for _, route := range s.routers {
		if handle = route(c); handle != nil {
			break
		}
	}
	if handle == nil {
		c.family = "unknown"
		s.count(c)
		return refuse(http.StatusNotFound, "Stand-in", "Not Found")
	}
	s.count(c)
	if early, hit := s.faultBefore(c); hit {
		return early
	}
	if refused := s.checkSignature(c); refused != nil {
		return *refused
	}
	return s.faultAfter(c, handle(s, c))
}

func (s *Server) count(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[c.family]++
	if c.op != "" && c.op != c.family {
		s.counts[c.op]++
	}
	s.signalChange()
}

// subscribeKey gives the refusal, in the service's words, when the key is not ours.
func (s *Server) subscribeKey(key string) *answer {
	if unescape(key) == s.cfg.SubscribeKey {
		return nil
	}
	refused := refuse(http.StatusBadRequest, "Access Manager", "Invalid Subscribe Key")
	return &refused
}

func write(w http.ResponseWriter, a answer) {
	if a.abort {
		abort(w)
	}
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if a.cut {
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(a.body)
}

// abort resets the connection, so that the client sees an error and not a short answer.
func abort(w http.ResponseWriter) {
	if hijacker, ok := w.(http.Hijacker); ok {
		if conn, _, err := hijacker.Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
		}
	}
	panic(http.ErrAbortHandler)
}
