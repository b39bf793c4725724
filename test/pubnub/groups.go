package pubnub

import (
	"net/http"
	"slices"
	"strings"
)

const (
	maxGroupAdd  = 200
	maxGroupSize = 2000
)

// groups maps a channel group to its channels.
type groups struct {
	members map[string]map[string]bool
}

func (g *groups) reset() { g.members = make(map[string]map[string]bool) }

// resolve gives the channels of the groups, sorted; for g-pnpres the presence channels of g's channels.
func (g *groups) resolve(names []string) []string {
	var channels []string
	for _, name := range names {
		base, isPresence := strings.CutSuffix(name, presenceSuffix)
		for channel := range g.members[base] {
			if isPresence {
				channel += presenceSuffix
			}
			channels = append(channels, channel)
		}
	}
	return unique(channels)
}

// of gives the groups a channel is in; for a presence channel the -pnpres names of the groups.
func (g *groups) of(channel string) []string {
	base, isPresence := strings.CutSuffix(channel, presenceSuffix)
	var names []string
	for name, members := range g.members {
		if members[base] {
			if isPresence {
				name += presenceSuffix
			}
			names = append(names, name)
		}
	}
	return names
}

// routeGroups:
//
//	GET /v1/channel-registration/sub-key/{sub}/channel-group/{group}[?add=a,b|?remove=a,b]
//	GET /v1/channel-registration/sub-key/{sub}/channel-group/{group}/remove
func routeGroups(c *call) handler {
	p := c.segments
	if len(p) < 6 || p[0] != "v1" || p[1] != "channel-registration" || p[4] != "channel-group" {
		return nil
	}
	c.family = "groups"
	c.channels = append(splitList(c.query.Get("add")), splitList(c.query.Get("remove"))...)
	switch {
	case len(p) > 6 && p[6] == "remove":
		c.op = "groups-delete"
	case c.query.Get("add") != "":
		c.op = "groups-add"
	case c.query.Get("remove") != "":
		c.op = "groups-remove"
	default:
		c.op = "groups-list"
	}
	return (*Server).changeGroup
}

func (s *Server) changeGroup(c *call) answer {
	const service = "channel-registry"
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	group := unescape(c.segments[5])
	if !validName(group) {
		return refuse(http.StatusBadRequest, service, "Invalid Channel Group")
	}
	if len(c.channels) > maxGroupAdd {
		return refuse(http.StatusBadRequest, service, "Too Many Channels")
	}
	for _, channel := range c.channels {
		// Wildcards cannot be put into groups.
		if !validName(channel) {
			return refuse(http.StatusBadRequest, service, "Invalid Channel")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	members := s.groups.members[group]
	switch c.op {
	case "groups-list":
		channels := make([]string, 0, len(members))
		for channel := range members {
			channels = append(channels, channel)
		}
		slices.Sort(channels)
		return reply(http.StatusOK, object{
			"status": 200, "service": service, "error": false,
			"payload": object{"channels": channels, "group": group},
		})
	case "groups-add":
		if len(members)+len(c.channels) > maxGroupSize {
			return refuse(http.StatusBadRequest, service, "Maximum channel count exceeded")
		}
		if members == nil {
			members = make(map[string]bool)
			s.groups.members[group] = members
		}
		for _, channel := range c.channels {
			members[channel] = true
		}
		s.waiters.wakeGroup(group)
	case "groups-remove":
		for _, channel := range c.channels {
			delete(members, channel)
		}
		if len(members) == 0 {
			delete(s.groups.members, group)
		}
	case "groups-delete":
		delete(s.groups.members, group)
	}
	s.signalChange()
	return reply(http.StatusOK, object{"status": 200, "message": "OK", "service": service, "error": false})
}
