package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// User is what the cluster knows of a person beside what their provider says at each login.
type User struct {
	Connector string    `json:"connector"`
	Subject   string    `json:"subject"`
	Name      string    `json:"name"`             // what the provider called them at the last login; never a key
	Roles     []string  `json:"roles,omitempty"`  // given by an administrator, on top of what the connector maps
	Mapped    []string  `json:"mapped,omitempty"` // what the connector mapped at the last login
	Created   time.Time `json:"created,omitzero"`
	LastLogin time.Time `json:"last_login,omitzero"`
}

// UserKey is the pair that is this user.
func (u User) UserKey() identity.UserKey {
	return identity.UserKey{Connector: u.Connector, Subject: u.Subject}
}

// FilterRoles narrows the roles that a certificate or a login says to those the person has now.
func (u User) FilterRoles(said []string) []string {
	return slices.DeleteFunc(
		slices.Clone(said),
		func(r string) bool { return !slices.Contains(u.Roles, r) && !slices.Contains(u.Mapped, r) },
	)
}

var users = table[User]{prefix: "users/", noun: "user", remedy: "run: tsh get users"}

// maxEscapedSubject is the longest escaped subject that stands in a key as it is; raftstore's keys have at
// most 1024 bytes.
const maxEscapedSubject = 600

// UserID is the key of the user's records: connector/subject with the subject escaped, so that no two users
// share one. A very long subject is named by its hash, behind a second "/" that no escaped subject begins
// with.
func UserID(k identity.UserKey) string {
	if s := url.PathEscape(k.Subject); len(s) <= maxEscapedSubject {
		return k.Connector + "/" + s
	}
	sum := sha256.Sum256([]byte(k.Subject))
	return k.Connector + "//" + hex.EncodeToString(sum[:])
}

// User returns the person's record, or fault NotFound for one who never logged in.
func (s *State) User(ctx context.Context, k identity.UserKey) (Stored[User], error) {
	return users.get(ctx, s, UserID(k))
}

// UserByID is User for a key that a listing gave.
func (s *State) UserByID(ctx context.Context, id string) (Stored[User], error) {
	return users.get(ctx, s, id)
}

// ListUsers returns one page of the users, by connector and subject.
func (s *State) ListUsers(ctx context.Context, p Page) (Listing[User], error) {
	return users.list(ctx, s, p)
}

// PutUser writes the person's record. It is fault Conflict if old is no longer what is stored; an old without
// a revision must not exist yet.
func (s *State) PutUser(ctx context.Context, old Stored[User], u User, events ...audit.Event) error {
	old.Key = UserID(u.UserKey())
	var c change
	c.appendEvents(events...)
	return write(ctx, s, users, old, &c, u)
}

// RemoveUser forgets the person and their second factor: the next login enrols a new one.
func (s *State) RemoveUser(ctx context.Context, old Stored[User], events ...audit.Event) error {
	var c change
	users.remove(&c, old)
	factors.deleteKey(&c, old.Key)
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}
