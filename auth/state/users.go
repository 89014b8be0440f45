package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// User is what the cluster stores of a user. Everything else about the user comes from the provider at each
// login.
type User struct {
	Connector string    `json:"connector"`
	Subject   string    `json:"subject"`
	Name      string    `json:"name"`             // as the provider said at the last login; never a key
	Roles     []string  `json:"roles,omitempty"`  // given by an administrator, in addition to Mapped
	Mapped    []string  `json:"mapped,omitempty"` // what the connector mapped at the last login
	Created   time.Time `json:"created,omitzero"`
	LastLogin time.Time `json:"last_login,omitzero"`
	// LastIssued is when certificates were issued last. A lock on what was issued before hits them, too.
	LastIssued time.Time `json:"last_issued,omitzero"`
}

// UserKey is the pair that identifies this user.
func (u User) UserKey() identity.UserKey {
	return identity.UserKey{Connector: u.Connector, Subject: u.Subject}
}

// FilterRoles returns those of the given roles that the user still has. It is for the roles in a certificate
// or a login, which may be older than this record.
func (u User) FilterRoles(roles []string) []string {
	lost := func(r string) bool { return !slices.Contains(u.Roles, r) && !slices.Contains(u.Mapped, r) }
	return slices.DeleteFunc(slices.Clone(roles), lost)
}

var users = table[User]{prefix: "users/", noun: "user", remedy: "run: tsh get users"}

// maxEscapedSubject is the longest escaped subject that is part of a key as it is, in bytes. raftstore's keys
// have at most 1024 bytes.
const maxEscapedSubject = 600

// UserID is the key of the user's records: connector/subject with the subject escaped, so that no two users
// share one. A longer subject is replaced by its hash behind a second "/", with which no escaped subject
// begins.
func UserID(k identity.UserKey) string {
	if s := url.PathEscape(k.Subject); len(s) <= maxEscapedSubject {
		return k.Connector + "/" + s
	}
	sum := sha256.Sum256([]byte(k.Subject))
	return k.Connector + "//" + hex.EncodeToString(sum[:])
}

// User returns the user's record, or fault NotFound for a user who never logged in.
func (r *Reader) User(ctx context.Context, k identity.UserKey) (Stored[User], error) {
	return users.get(ctx, r, UserID(k))
}

// UserByID is User for a key that a listing returned.
func (r *Reader) UserByID(ctx context.Context, id string) (Stored[User], error) {
	return users.get(ctx, r, id)
}

// ListUsers returns one page of the users, ordered by connector and subject.
func (r *Reader) ListUsers(ctx context.Context, p Page) (Listing[User], error) {
	return users.list(ctx, r, p)
}

// Users changes and removes users, and reads.
type Users struct{ writer }

// PutUser writes u in the place of old, with a lock for each role that the user loses. It returns fault
// Conflict if old is no longer what is stored. The zero value as old creates the record, and fails with the
// same fault if there is one.
func (w *Users) PutUser(ctx context.Context, old Stored[User], u User, by By, events ...audit.Event) error {
	old.Key = UserID(u.UserKey())
	var c change
	if err := w.putLocks(ctx, &c, by.Time, locksOnLostRoles(old.Value, u, by)...); err != nil {
		return err
	}
	c.appendEvents(events...)
	users.replaceOrCreate(&c, old, u)
	_, err := w.commit(ctx, &c)
	return err
}

// RemoveUser removes the user's record and second factor, and locks what was issued to them before. At their
// next login the user is created again and enrols a new factor. It returns fault Conflict if old is no longer
// what is stored.
func (w *Users) RemoveUser(ctx context.Context, old Stored[User], by By, events ...audit.Event) error {
	var c change
	user := access.UserFact(old.Value.UserKey())
	by = by.after(old.Value.LastIssued)
	lock := LockOfIssuedBefore(access.Facts{User: user}, access.Effect{Kind: access.Deny}, by.Time)
	lock.Message, lock.Author = "the user was removed", by.Name
	if err := w.putLocks(ctx, &c, by.Time, lock); err != nil {
		return err
	}
	users.remove(&c, old)
	factors.deleteKey(&c, old.Key)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
