package pubnub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"
)

// signatureWindow is how far the timestamp of a signed request may be from the server's clock.
const signatureWindow = 60 * time.Second

// checkSignature verifies a signature that is present and refuses unsigned requests when configured so. The JavaScript SDK
// never signs /time. The wording of the refusals is assumed.
func (s *Server) checkSignature(c *call) *answer {
	given := c.query.Get("signature")
	if given == "" {
		if s.cfg.RequireSignature && c.family != "time" {
			refused := refuse(http.StatusForbidden, "Access Manager", "Signature Required")
			return &refused
		}
		return nil
	}
	stamp, err := strconv.ParseInt(c.query.Get("timestamp"), 10, 64)
	if err != nil || s.cfg.Clock().Sub(time.Unix(stamp, 0)).Abs() > signatureWindow {
		refused := refuse(http.StatusForbidden, "Access Manager", "Invalid Timestamp")
		return &refused
	}
	for _, expected := range s.signatures(c) {
		if hmac.Equal([]byte(given), []byte(expected)) {
			return nil
		}
	}
	refused := refuse(http.StatusForbidden, "Access Manager", "Invalid Signature")
	return &refused
}

// signatures are those that the request may carry. Only publishing by POST has more than one: the JavaScript SDK signs it
// as a GET without body, the Go SDK in the old scheme.
func (s *Server) signatures(c *call) []string {
	query := canonicalQuery(c.rawQuery)
	var body []byte
	if c.http.Method == http.MethodPost || c.http.Method == http.MethodPatch {
		body = c.body
	}
	accepted := []string{signV2(s.cfg.SecretKey, c.http.Method, s.cfg.PublishKey, c.path, query, body)}
	if c.http.Method == http.MethodPost && c.segments[0] == "publish" {
		accepted = append(accepted,
			signV2(s.cfg.SecretKey, http.MethodGet, s.cfg.PublishKey, c.path, query, nil),
			signV1(s.cfg.SecretKey, s.cfg.SubscribeKey, s.cfg.PublishKey, c.path, query))
	}
	return accepted
}

func signV2(secret, method, publishKey, path, query string, body []byte) string {
	text := strings.Join([]string{method, publishKey, path, query, string(body)}, "\n")
	return "v2." + base64.RawURLEncoding.EncodeToString(mac(secret, text))
}

func signV1(secret, subscribeKey, publishKey, path, query string) string {
	return base64.URLEncoding.EncodeToString(mac(secret, strings.Join([]string{subscribeKey, publishKey, path, query}, "\n")))
}

func mac(secret, text string) []byte {
	hash := hmac.New(sha256.New, []byte(secret))
	hash.Write([]byte(text))
	return hash.Sum(nil)
}

// canonicalQuery is the query as it is signed: without the signature, sorted, values escaped in one way.
func canonicalQuery(raw string) string {
	var pairs []string
	for pair := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key == "" || key == "signature" {
			continue
		}
		pairs = append(pairs, key+"="+signedEscaper.Replace(url.QueryEscape(unescape(value))))
	}
	sort.Strings(pairs)
	return strings.Join(pairs, "&")
}

// signedEscaper turns form escaping into the stricter form that is signed.
var signedEscaper = strings.NewReplacer("+", "%20", "*", "%2A", "!", "%21", "'", "%27", "(", "%28", ")", "%29", "~", "%7E")
