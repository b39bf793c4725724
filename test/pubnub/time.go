package pubnub

import "net/http"

// routeTime: GET /time/0.
func routeTime(c *call) handler {
	if c.segments[0] != "time" {
		return nil
	}
	c.family = "time"
	return func(s *Server, _ *call) answer {
		s.mu.Lock()
		defer s.mu.Unlock()
		return reply(http.StatusOK, []int64{s.tick()})
	}
}
