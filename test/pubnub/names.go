package pubnub

import "strings"

const (
	maxName        = 92
	presenceSuffix = "-pnpres"
)

// validName holds for names of channels that can be published to, and of groups.
func validName(name string) bool {
	return subscribableName(name) && !strings.Contains(name, "*")
}

// subscribableName also allows '*': a name that ends in ".*" is a wildcard, any other star is a literal.
func subscribableName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`,:/\`, r) {
			return false
		}
	}
	return true
}

// splitNames takes the channel segment of a path apart. It is split before it is unescaped, so that an escaped comma
// stays part of a name. A lone comma stands for "no channel, only groups".
func splitNames(segment string) []string {
	var names []string
	for part := range strings.SplitSeq(segment, ",") {
		if part != "" {
			names = append(names, unescape(part))
		}
	}
	return names
}

func splitList(list string) []string {
	var names []string
	for part := range strings.SplitSeq(list, ",") {
		if part != "" {
			names = append(names, part)
		}
	}
	return names
}

// feeds are the subscription names that a message on the channel is delivered to: the channel and its wildcards. Presence
// channels keep their suffix behind the star.
func (cfg Config) feeds(channel string) []string {
	base, isPresence := strings.CutSuffix(channel, presenceSuffix)
	suffix := ""
	if isPresence {
		suffix = presenceSuffix
	}
	names := []string{channel}
	dots := 0
	for i := range len(base) {
		if base[i] != '.' {
			continue
		}
		dots++
		if cfg.StrictWildcards && dots > 2 {
			break
		}
		if cfg.SingleLevelWildcards && strings.Contains(base[i+1:], ".") {
			continue
		}
		names = append(names, base[:i]+".*"+suffix)
	}
	return names
}

func isWildcard(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(name, presenceSuffix), ".*")
}
