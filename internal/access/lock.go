package access

import (
	"fmt"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Lock takes access away from everybody who has all of the facts in Match, until End.
//
// A lock only ever takes away. A reader that does not know one of its facts matches by the others, and one
// that does not know its effect denies: the lock then hits more, and is never dropped.
type Lock struct {
	ID     string `json:"id"`
	Match  Facts  `json:"match"`
	Effect Effect `json:"effect"`
	// Message says why, for those whom the lock hits. Author is who made the lock, whom they can ask.
	Message string    `json:"message,omitempty"`
	Author  string    `json:"author,omitempty"`
	End     time.Time `json:"end,omitzero"` // the lock has no effect from then on; zero: it has no end
}

// Facts are what a lock says of a request. A field that is empty says nothing. Without any fact, a lock hits
// everybody.
type Facts struct {
	User      UserFact           `json:"user,omitzero"`           // who asks
	Connector string             `json:"connector,omitempty"`     // by which the user logged in
	LoginID   identity.LoginID   `json:"login_id,omitempty"`      // from which the certificate was issued
	Serial    identity.Serial    `json:"serial,omitempty,string"` // of the certificate
	Role      string             `json:"role,omitempty"`          // one of those in the certificate
	Account   identity.Login     `json:"account,omitempty"`       // as which the action is done
	Machine   identity.MachineID `json:"machine,omitempty"`       // the target
	// LoginProxy is the proxy that served the login, and ViaProxy the one by which the user is connected.
	LoginProxy identity.MachineID `json:"login_proxy,omitempty"`
	ViaProxy   identity.MachineID `json:"via_proxy,omitempty"`

	// IssuedBefore and Since bound when the certificate was issued: before the one, and not before the other.
	// Certificates say it in whole seconds, so both hit a second in which it may be true. They hit a
	// certificate that does not say it.
	IssuedBefore time.Time `json:"issued_before,omitzero"`
	Since        time.Time `json:"since,omitzero"`
}

// UserFact names a user as identity.UserKey does.
type UserFact struct {
	Connector string `json:"connector"`
	Subject   string `json:"subject"`
}

// Effect is what a lock does to those whom it hits. Any kind but WithoutRole denies.
type Effect struct {
	Kind EffectKind `json:"kind"`
	Role string     `json:"role,omitempty"` // of WithoutRole: what this role allows does not count
}

// EffectKind names an effect. Append only.
type EffectKind string

const (
	Deny EffectKind = "deny"
	// WithoutRole leaves out what one role allows. What the role denies, and its options, go on to hold: a
	// lock must not allow what was not allowed without it.
	WithoutRole EffectKind = "without-role"
)

// hits reports whether the lock is in force at the time of the request, and each of its facts is one of the
// request's.
func (l Lock) hits(r Request) bool {
	if !l.End.IsZero() && !r.Now.Before(l.End) {
		return false
	}
	m := l.Match
	return (m.User == UserFact{} || m.User == UserFact(r.Who.UserKey())) &&
		(m.Connector == "" || m.Connector == r.Who.Connector) &&
		(m.LoginID == "" || m.LoginID == r.Who.LoginID) &&
		(m.Serial == 0 || m.Serial == r.Serial) &&
		(m.Role == "" || slices.Contains(r.Who.Roles, m.Role)) &&
		(m.Account == "" || m.Account == r.Login) &&
		(m.Machine == "" || m.Machine == r.Target.Node.ID) &&
		(m.LoginProxy == "" || m.LoginProxy == r.Who.Proxy) &&
		(m.ViaProxy == "" || m.ViaProxy == r.Proxy) &&
		m.hitsIssue(r.Who.IssuedAt)
}

// hitsIssue reports whether a certificate may have been issued at a time that the facts name. issued is in
// whole seconds; zero: the certificate does not say it.
func (f Facts) hitsIssue(issued time.Time) bool {
	return issued.IsZero() ||
		(f.IssuedBefore.IsZero() || issued.Before(f.IssuedBefore)) &&
			(f.Since.IsZero() || !issued.Before(f.Since.Truncate(time.Second)))
}

// Locks are the locks in force. They are found by a fact that few requests have: there may be ten thousand of
// them, and a session asks the rules two dozen times. The zero value has none.
type Locks struct {
	bySerial  map[identity.Serial][]Lock
	byLoginID map[identity.LoginID][]Lock
	byUser    map[UserFact][]Lock
	byMachine map[identity.MachineID][]Lock
	others    []Lock // those without any of these facts
}

// NewLocks returns the locks of a list.
func NewLocks(list []Lock) Locks {
	locks := Locks{
		bySerial:  map[identity.Serial][]Lock{},
		byLoginID: map[identity.LoginID][]Lock{},
		byUser:    map[UserFact][]Lock{},
		byMachine: map[identity.MachineID][]Lock{},
	}
	for _, l := range list {
		switch m := l.Match; {
		case m.Serial != 0:
			locks.bySerial[m.Serial] = append(locks.bySerial[m.Serial], l)
		case m.LoginID != "":
			locks.byLoginID[m.LoginID] = append(locks.byLoginID[m.LoginID], l)
		case m.User != UserFact{}:
			locks.byUser[m.User] = append(locks.byUser[m.User], l)
		case m.Machine != "":
			locks.byMachine[m.Machine] = append(locks.byMachine[m.Machine], l)
		default:
			locks.others = append(locks.others, l)
		}
	}
	return locks
}

// candidates lists the locks that may hit the request.
func (l Locks) candidates(r Request) [5][]Lock {
	return [...][]Lock{
		l.bySerial[r.Serial],
		l.byLoginID[r.Who.LoginID],
		l.byUser[UserFact(r.Who.UserKey())],
		l.byMachine[r.Target.Node.ID],
		l.others,
	}
}

// thatDenies returns a lock that hits the request and denies it. ok is false if there is none.
func (l Locks) thatDenies(r Request) (denies Lock, ok bool) {
	for _, list := range l.candidates(r) {
		for _, lock := range list {
			if lock.Effect.Kind != WithoutRole && lock.hits(r) {
				return lock, true
			}
		}
	}
	return Lock{}, false
}

// takeRole reports whether a lock leaves out what the role allows.
func (l Locks) takeRole(role string, r Request) bool {
	for _, list := range l.candidates(r) {
		for _, lock := range list {
			if lock.Effect.Kind == WithoutRole && lock.Effect.Role == role && lock.hits(r) {
				return true
			}
		}
	}
	return false
}

// denial is the decision of a lock that denies. It tells the user the message, the end, and whom to ask.
func (l Lock) denial(r Request) Decision {
	rule := "lock " + l.ID
	reason := fmt.Sprintf("%s denies %s", rule, r)
	if !l.End.IsZero() {
		reason += " until " + l.End.UTC().Format(time.RFC3339)
	}
	if l.Message != "" {
		reason += ": " + l.Message
	}
	remedy := "ask an administrator to remove the lock"
	if l.Author != "" {
		remedy = fmt.Sprintf("ask %s, who made the lock", l.Author)
	}
	return denial(rule, reason, remedy)
}
