package clinic

import "strings"

// hasSection says whether YAML text sets a top-level key.
func hasSection(text, key string) bool {
	return strings.HasPrefix(text, key+":") || strings.Contains(text, "\n"+key+":")
}
