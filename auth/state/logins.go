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

// PendingLogin is a login that has passed the provider and the second factor, and that tsh has not redeemed
// yet. It is stored under the hash of its one-time code, so the stored data does not help to redeem it.
type PendingLogin struct {
	Who       identity.Identity `json:"who"`
	Mapped    []string          `json:"mapped,omitempty"` // those of Who's roles that the connector mapped
	Proxy     identity.Identity `json:"proxy"`            // the proxy that served it
	From      string            `json:"from,omitempty"`   // the browser's address, as the proxy reported it
	Challenge string            `json:"challenge"`
	MaxTTL    time.Duration     `json:"max_ttl,omitempty"` // of the certificates; zero: as the roles say
	AuthTime  time.Time         `json:"auth_time"`         // when the second factor was verified
	Expires   time.Time         `json:"expires"`
}

// CodeHash is the SHA-256 of a one-time code.
type CodeHash [sha256.Size]byte

func (h CodeHash) key() string { return hex.EncodeToString(h[:]) }

var logins = table[PendingLogin]{prefix: "logins/", noun: "login", remedy: "run: tsh login"}

// PendingLogin returns the login stored under the hash of a code, or fault NotFound. The login stays.
func (r *Reader) PendingLogin(ctx context.Context, h CodeHash) (Stored[PendingLogin], error) {
	return logins.get(ctx, r, h.key())
}

// Logins stores and redeems logins, and reads.
type Logins struct{ writer }

// sweepLimit is how many expired logins one new login removes. It is more than one, so logins that were never
// redeemed do not accumulate.
const sweepLimit = 64

// AddLogin stores a login under the hash of its one-time code. It also updates the user's record, and creates
// it at the first login.
func (w *Logins) AddLogin(ctx context.Context, h CodeHash, p PendingLogin, events ...audit.Event) error {
	return retryOnConflict(func() error {
		old, err := users.getOrNew(ctx, w.Reader, UserID(p.Who.UserKey()))
		if err != nil {
			return err
		}
		var c change
		users.replaceOrCreate(&c, old, userAfterLogin(old.Value, p))
		if err := w.sweepLogins(ctx, &c, p.AuthTime); err != nil {
			return err
		}
		logins.create(&c, h.key(), p)
		c.appendEvents(events...)
		_, err = w.commit(ctx, &c)
		return err
	})
}

// userAfterLogin updates a user's record from a login. The roles that an administrator gave stay.
func userAfterLogin(u User, p PendingLogin) User {
	u.Connector, u.Subject, u.Name, u.LastLogin = p.Who.Connector, p.Who.Subject, p.Who.Name, p.AuthTime
	u.Mapped = p.Mapped
	if u.Created.IsZero() {
		u.Created = p.AuthTime
	}
	return u
}

// sweepLogins removes up to sweepLimit logins that expired before they were redeemed.
func (w *Logins) sweepLogins(ctx context.Context, c *change, now time.Time) error {
	got, err := logins.list(ctx, w.Reader, Page{Limit: sweepLimit})
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

// RedeemLogin removes a login that was read. Of several concurrent callers one succeeds; the others get fault
// Expired.
func (w *Logins) RedeemLogin(ctx context.Context, l Stored[PendingLogin], events ...audit.Event) error {
	c := change{conflict: fault.New(fault.Expired, "state.RedeemLogin", "this login was redeemed already",
		logins.remedy)}
	logins.remove(&c, l)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
