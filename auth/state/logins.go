package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// PendingLogin is a login that has passed the provider and the second factor, and that tsh has not redeemed
// yet. It is stored under the hash of its one-time code, so the stored data does not help to redeem it.
type PendingLogin struct {
	Who       identity.Identity `json:"who"`
	Mapped    []string          `json:"mapped,omitempty"` // the roles of Who that the connector's rules gave
	Proxy     identity.Identity `json:"proxy"`            // the proxy that served it
	From      netip.Addr        `json:"from,omitzero"`    // the browser's address, as the proxy reported it
	Host      ClientHost        `json:"host,omitzero"`
	Challenge string            `json:"challenge"`         // PKCE challenge; redeeming needs its verifier
	MaxTTL    time.Duration     `json:"max_ttl,omitempty"` // of the certificates; zero: as the roles say
	AuthTime  time.Time         `json:"auth_time"`         // when the second factor was verified
	Expires   time.Time         `json:"expires"`
	// ConnectorRevision is the revision of the connector by which the provider identified the user.
	ConnectorRevision uint64 `json:"connector_revision,omitempty"`
}

// ClientHost is the computer on which tsh runs, as a login has it.
type ClientHost struct {
	Name string `json:"name,omitempty"` // what it calls itself: it may say anything
	// Code is what the terminal and the page show for the user to compare. "": they show none.
	Code string     `json:"code,omitempty"`
	Addr netip.Addr `json:"addr,omitzero"` // of a login in a browser on that computer, the browser's
}

// CodeHash is the SHA-256 of a one-time code.
type CodeHash [sha256.Size]byte

func (h CodeHash) key() string { return hex.EncodeToString(h[:]) }

var logins = table[PendingLogin]{prefix: "logins/", noun: "login", remedy: "run: tsh login"}

// PendingLogin returns the login stored under the hash of a code, or fault NotFound. It does not redeem the
// login.
func (r *Reader) PendingLogin(ctx context.Context, h CodeHash) (Stored[PendingLogin], error) {
	return logins.get(ctx, r, h.key())
}

// Logins stores and redeems logins, and reads.
type Logins struct{ writer }

// sweepLimit is how many expired logins one new login removes. It is more than one, so logins that were never
// redeemed do not accumulate.
const sweepLimit = 64

// AddLogin stores a login under the hash of its one-time code, until RedeemLogin. In the same transaction it
// creates or updates the user's record, marks the attempt as used, and removes some logins that have expired.
// An attempt that was used since it was read gets fault Expired.
func (w *Logins) AddLogin(
	ctx context.Context, h CodeHash, login PendingLogin, attempt StoredAttempt, events ...audit.Event,
) error {
	return retryOnConflict(func() error {
		now, err := attempts.getOrNew(ctx, w.Reader, attempt.record.Key)
		if err != nil {
			return err
		}
		if now.Revision != attempt.record.Revision { // no later try could succeed
			return attemptUsed.New("state.AddLogin")
		}
		old, err := users.getOrNew(ctx, w.Reader, UserID(login.Who.UserKey()))
		if err != nil {
			return err
		}
		var c change
		next := userAfterLogin(old.Value, login)
		users.replaceOrCreate(&c, old, next)
		// Roles that the connector mapped at an earlier login, and does not any more.
		lost := locksOnLostRoles(old.Value, next, By{Time: login.AuthTime})
		if err := w.putLocks(ctx, &c, login.AuthTime, lost...); err != nil {
			return err
		}
		if err := w.sweepLogins(ctx, &c, login.AuthTime); err != nil {
			return err
		}
		logins.create(&c, h.key(), login)
		attempt.markUsed(&c)
		c.appendEvents(events...)
		_, err = w.commit(ctx, &c)
		return err
	})
}

// userAfterLogin returns a user's record with what a login says of the user. The roles that an administrator
// gave stay. u is the zero User at the first login.
func userAfterLogin(u User, login PendingLogin) User {
	u.Connector, u.Subject, u.Name = login.Who.Connector, login.Who.Subject, login.Who.Name
	u.Mapped, u.LastLogin = login.Mapped, login.AuthTime
	if u.Created.IsZero() {
		u.Created = login.AuthTime
	}
	return u
}

// sweepLogins adds to c the removal of expired logins. It looks at sweepLimit logins only, in the order of
// their hashes, which is random: in time it meets every login.
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

// Decided is what a login was decided by. What is issued for it is committed only if that is unchanged.
type Decided struct {
	User  Stored[User]
	Locks *LockSet
}

// RedeemLogin removes a login that PendingLogin returned, and stores the issuance records of its
// certificates, which were issued at now at the latest, and the events. nil means that the certificates may
// be released. Of several callers with the same login one succeeds; the others get fault Expired. Fault
// Conflict means that the user or a lock was changed since they were read: the caller decides again.
func (w *Logins) RedeemLogin(
	ctx context.Context, l Stored[PendingLogin], by Decided, now time.Time, issued []json.RawMessage,
	events ...audit.Event,
) error {
	var c change
	logins.remove(&c, l)
	by.Locks.requireUnchanged(&c)
	user := by.User.Value
	user.LastIssued = now.UTC()
	users.replace(&c, by.User, user)
	lastIssued.set(&c, user.Connector, issuedRecord{Time: now.UTC()})
	c.appendIssuances(issued)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	still, readErr := logins.getOrNew(ctx, w.Reader, l.Key)
	if readErr == nil && still.Revision == l.Revision {
		return err // the login is there still, so something else has changed
	}
	return loginRedeemed.New("state.RedeemLogin").Because(err)
}

// RefuseLogin removes a login that PendingLogin returned, for which nothing is issued, and stores the events.
// A login that was removed since gets fault Expired.
func (w *Logins) RefuseLogin(ctx context.Context, l Stored[PendingLogin], events ...audit.Event) error {
	c := change{conflict: loginRedeemed.New("state.RefuseLogin")}
	logins.remove(&c, l)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
