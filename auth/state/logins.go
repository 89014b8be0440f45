package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// PendingLogin has passed provider and second factor, and waits for tsh to fetch it with the one-time code.
// It is stored under the code's hash, so that what is stored redeems nothing.
type PendingLogin struct {
	Who       identity.Identity `json:"who"`
	Mapped    []string          `json:"mapped,omitempty"` // those of Who's roles that the connector mapped
	Proxy     identity.Identity `json:"proxy"`            // it came by
	From      string            `json:"from,omitempty"`
	Challenge string            `json:"challenge"`
	MaxTTL    time.Duration     `json:"longest,omitempty"` // bounds the certificates' life; zero: as the roles say
	AuthTime  time.Time         `json:"at"`                // when the second factor was shown
	Expires   time.Time         `json:"expires"`
}

// CodeHash is the SHA-256 of a one-time code.
type CodeHash [sha256.Size]byte

func (h CodeHash) key() string { return hex.EncodeToString(h[:]) }

var logins = table[PendingLogin]{prefix: "logins/", noun: "login", remedy: "run: tsh login"}

// sweepLimit is how many ended logins one new login clears away. It is more than one, so what was never
// fetched does not add up.
const sweepLimit = 64

// AddLogin stores a login for its one-time code and notes it on the person's record, which it makes at the
// first login.
func (s *State) AddLogin(ctx context.Context, h CodeHash, p PendingLogin, events ...audit.Event) error {
	return retryOnConflict(func() error {
		old, err := users.getOrNew(ctx, s, UserID(p.Who.UserKey()))
		if err != nil {
			return err
		}
		var c change
		users.replaceOrCreate(&c, old, userAfterLogin(old.Value, p))
		if err := s.sweepLogins(ctx, &c, p.AuthTime); err != nil {
			return err
		}
		logins.create(&c, h.key(), p)
		c.appendEvents(events...)
		_, err = s.commit(ctx, &c)
		return err
	})
}

func userAfterLogin(u User, p PendingLogin) User {
	u.Connector, u.Subject, u.Name, u.LastLogin = p.Who.Connector, p.Who.Subject, p.Who.Name, p.AuthTime
	u.Mapped = p.Mapped
	if u.Created.IsZero() {
		u.Created = p.AuthTime
	}
	return u
}

// sweepLogins clears away some of the logins that nobody fetched in time.
func (s *State) sweepLogins(ctx context.Context, c *change, now time.Time) error {
	got, err := logins.list(ctx, s, Page{Limit: sweepLimit})
	if err != nil {
		return err
	}
	for _, l := range got.Items {
		if now.After(l.Value.Expires) {
			logins.deleteKey(c, l.Key)
		}
	}
	return nil
}

// PendingLogin returns the login stored under the hash of a code, or fault NotFound. Reading it spends
// nothing.
func (s *State) PendingLogin(ctx context.Context, h CodeHash) (Stored[PendingLogin], error) {
	return logins.get(ctx, s, h.key())
}

// RedeemLogin spends a login that was read. Of all who try, one succeeds; the others get fault Expired.
func (s *State) RedeemLogin(ctx context.Context, l Stored[PendingLogin], events ...audit.Event) error {
	c := change{
		conflict: fault.New(
			fault.Expired,
			"state.TakeLogin",
			"this login was fetched already",
			logins.remedy,
		),
	}
	logins.remove(&c, l)
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}
