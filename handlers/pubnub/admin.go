package pubnub

import (
	"context"
	"errors"
	"maps"
	"time"

	sdk "github.com/pubnub/go/v7"
)

// Right is what a token lets its holder do on a channel.
type Right struct{ Read, Write bool }

// Grant is a token to be made out: to one user, for exactly these channels. There are no patterns: they match more than
// they seem to.
type Grant struct {
	User     string
	Channels map[string]Right
	For      time.Duration // whole minutes, 1 min to 30 days
}

// ErrGrantDiffers says that the service made out another token than was asked for. It must not be used.
var ErrGrantDiffers = errors.New("pubnub grant: the token differs from what was asked for")

// Admin makes out and revokes tokens. It is the only one that needs the secret key where messaging has a token.
type Admin struct{ client *sdk.PubNub }

// NewAdmin needs an account with its secret key.
func NewAdmin(a Account) (*Admin, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	if a.SecretKey == "" {
		return nil, errors.New("pubnub account: secret key is missing")
	}
	return &Admin{a.client(a.network(), true)}, nil
}

// Grant gives a token. It is taken apart again and compared with what was asked for.
func (a *Admin) Grant(ctx context.Context, g Grant) (string, error) {
	minutes := int(g.For / time.Minute)
	if g.User == "" || len(g.Channels) == 0 || minutes < 1 || minutes > 43_200 {
		return "", &Error{Op: "grant", Kind: KindInvalid}
	}
	channels := make(map[string]sdk.ChannelPermissions, len(g.Channels))
	for name, right := range g.Channels {
		channels[name] = sdk.ChannelPermissions{Read: right.Read, Write: right.Write}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, _, err := call(ctx, "grant", func() (*sdk.PNGrantTokenResponse, sdk.StatusResponse, error) {
		return a.client.GrantTokenWithContext(ctx).TTL(minutes).AuthorizedUUID(g.User).Channels(channels).Execute()
	})
	if err != nil {
		return "", err
	}
	var token *sdk.PNToken
	guard(func() { token, err = sdk.ParseToken(answer.Data.Token) })
	switch {
	case token == nil || err != nil,
		token.AuthorizedUUID != g.User, token.TTL != minutes, !maps.Equal(token.Resources.Channels, channels),
		len(token.Resources.ChannelGroups)+len(token.Resources.UUIDs) > 0,
		len(token.Patterns.Channels)+len(token.Patterns.ChannelGroups)+len(token.Patterns.UUIDs) > 0:
		return "", ErrGrantDiffers
	}
	return answer.Data.Token, nil
}

// Revoke ends a token. The service may take a minute, and refuses where revoking is not switched on for the key set.
func (a *Admin) Revoke(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, _, err := call(ctx, "revoke", func() (*sdk.PNRevokeTokenResponse, sdk.StatusResponse, error) {
		return a.client.RevokeTokenWithContext(ctx).Token(token).Execute()
	})
	return err
}
