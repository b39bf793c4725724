package pubnub

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"consultd/handlers"
	"consultd/states"
)

// Sizes that PubNub sets for reading history.
const (
	pageOne  = 100 // messages per answer about one channel
	pageMany = 25  // messages per channel in an answer about several
	// channelsPerRead keeps the URL below 8 KiB; the service would take 500.
	channelsPerRead = 50
)

// history reads what was published and stored. The SDK's own reader panics on payloads that anybody may publish, and takes
// any garbage for "no messages".
type history struct {
	account Account
	network http.RoundTripper
}

// since gives what was published on the channels after a timetoken, in timetoken order. Several channels are read in one
// request; those with more than fits in are then read page by page.
func (h history) since(ctx context.Context, channels []string, from int64) ([]Element, error) {
	var found []Element
	for some := range slices.Chunk(channels, channelsPerRead) {
		size := pageMany
		if len(some) == 1 {
			size = pageOne
		}
		page, err := h.read(ctx, some, from, 0, size)
		if err != nil {
			return found, err
		}
		for channel, elements := range page {
			for got, want := elements, size; len(got) >= want; want = pageOne {
				if got, err = h.page(ctx, channel, from, got[0].Timetoken); err != nil {
					return found, err
				}
				elements = append(got, elements...)
			}
			found = append(found, elements...)
		}
	}
	sortByTime(found)
	return found, nil
}

func (h history) page(ctx context.Context, channel string, from, before int64) ([]Element, error) {
	page, err := h.read(ctx, []string{channel}, from, before, pageOne)
	return page[channel], err
}

// read makes one request: what is after from and, unless 0, before the other timetoken; the newest of it, oldest first.
func (h history) read(ctx context.Context, channels []string, from, before int64, size int) (map[string][]Element, error) {
	query := params{"max": strconv.Itoa(size), "end": strconv.FormatInt(from+1, 10), "include_uuid": "true", "include_message_type": "true"}
	if before != 0 {
		query["start"] = strconv.FormatInt(before, 10)
	}
	var answer struct {
		Status   int                          `json:"status"`
		Failed   json.RawMessage              `json:"error"`
		Channels map[string][]json.RawMessage `json:"channels"`
	}
	path := "/v3/history/sub-key/" + h.account.SubscribeKey + "/channel/" + escapeNames(channels)
	if err := h.account.get(ctx, h.network, "history", path, query, &answer); err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK || string(answer.Failed) == "true" {
		return nil, &Error{Op: "history", Status: answer.Status, Kind: KindUnreadable, Retry: true}
	}
	page := make(map[string][]Element)
	for _, channel := range channels {
		for _, raw := range answer.Channels[channel] {
			element, err := h.element(channel, raw)
			if err != nil {
				return nil, err
			}
			page[channel] = append(page[channel], element)
		}
		sortByTime(page[channel])
	}
	return page, nil
}

// element reads one stored message. One without a timetoken makes the whole answer unusable, since pages are cut by them.
func (h history) element(channel string, raw json.RawMessage) (Element, error) {
	var fields struct {
		Message   json.RawMessage `json:"message"`
		Timetoken json.RawMessage `json:"timetoken"`
		UUID      json.RawMessage `json:"uuid"`
		Type      json.RawMessage `json:"message_type"`
	}
	e := Element{Channel: channel}
	err := json.Unmarshal(raw, &fields)
	tt, ok := timetoken(fields.Timetoken)
	if err != nil || !ok {
		return e, &Error{Op: "history", Status: http.StatusOK, Kind: KindUnreadable, Retry: true}
	}
	e.Timetoken, e.Payload = tt, fields.Message
	if json.Unmarshal(orNull(fields.UUID), &e.Publisher) != nil {
		e.Publisher = "\x00" // no user id: quarantined by check
	}
	if json.Unmarshal(orNull(fields.Type), &e.Kind) != nil {
		e.Kind = -1
	}
	return e, nil
}

// members gives the channels of a channel group.
func (h history) members(ctx context.Context, group string) ([]string, error) {
	var answer struct {
		Status  int `json:"status"`
		Payload struct {
			Channels []string `json:"channels"`
		} `json:"payload"`
	}
	path := "/v1/channel-registration/sub-key/" + h.account.SubscribeKey + "/channel-group/" + escapeNames([]string{group})
	if err := h.account.get(ctx, h.network, "list channel group", path, params{}, &answer); err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, &Error{Op: "list channel group", Status: answer.Status, Kind: KindUnreadable, Retry: true}
	}
	return answer.Payload.Channels, nil
}

func sortByTime(elements []Element) {
	slices.SortStableFunc(elements, func(a, b Element) int {
		switch {
		case a.Timetoken < b.Timetoken:
			return -1
		case a.Timetoken > b.Timetoken:
			return 1
		default:
			return strings.Compare(a.Channel, b.Channel)
		}
	})
}

// urgent says whether what comes on a channel goes into the emergency lane.
func urgent(channel string) bool {
	return handlers.LaneOf(handlers.InSubject(channel)) == states.LaneEmergency
}
