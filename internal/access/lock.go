package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
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
	Created time.Time `json:"created,omitzero"`
	End     time.Time `json:"end,omitzero"` // the lock has no effect from then on; zero: it has no end
}

// Bounds of locks. All locks of a cluster have to fit into signed documents, and each reaches every node.
const (
	MaxLockBytes = 512    // of one lock, as JSON
	MaxLocks     = 10_000 // of a cluster
)

// NewLock returns a lock with the id that belongs to its facts and its effect: two locks that do the same
// have the same id.
func NewLock(match Facts, effect Effect) Lock {
	match.IssuedBefore, match.Since = match.IssuedBefore.UTC(), match.Since.UTC()
	b, err := json.Marshal(struct {
		Match  Facts  `json:"match"`
		Effect Effect `json:"effect"`
	}{match, effect})
	if err != nil {
		panic(fmt.Sprintf("access: encode a lock: %v", err)) // it has only texts and times
	}
	sum := sha256.Sum256(b)
	return Lock{ID: hex.EncodeToString(sum[:lockIDBytes]), Match: match, Effect: effect}
}

// lockIDBytes is how many bytes of a hash an id has: few enough to type, and enough for MaxLocks.
const lockIDBytes = 6

// Check reports what is wrong with a lock that is about to be written. It calls report once for each fault,
// with the path of the field, as "match.role", and a message.
func (l Lock) Check(report func(path, format string, args ...any)) {
	if l.Match == (Facts{}) {
		report("match", "names nothing: the lock would hit everybody")
	}
	l.Match.check(report)
	switch l.Effect.Kind {
	case Deny:
		if l.Effect.Role != "" {
			report("effect.role", "belongs to the effect %s", WithoutRole)
		}
	case WithoutRole:
		if err := identity.CheckWord("role", l.Effect.Role); err != nil {
			report("effect.role", "%v", err)
		}
	default:
		report("effect.kind", "%.40q is neither %s nor %s", l.Effect.Kind, Deny, WithoutRole)
	}
	if l.OfMachine() && l.Effect.Kind == WithoutRole {
		report("effect.kind", "a lock of a machine alone denies the machine itself, which has no roles")
	}
	for _, text := range []struct{ what, s string }{{"message", l.Message}, {"author", l.Author}} {
		if text.s == "" {
			continue
		}
		if err := identity.CheckText(text.what, text.s); err != nil {
			report(text.what, "%v", err)
		}
	}
	if b, err := json.Marshal(l); err != nil || len(b) > MaxLockBytes {
		report("", "the lock takes %d bytes, more than %d: shorten the message", len(b), MaxLockBytes)
	}
}

// check reports the facts that no request can have.
func (f Facts) check(report func(path, format string, args ...any)) {
	words := []struct{ path, what, word string }{
		{"match.user.connector", "connector", f.User.Connector},
		{"match.connector", "connector", f.Connector},
		{"match.role", "role", f.Role},
	}
	for _, w := range words {
		if w.word == "" {
			continue
		}
		if err := identity.CheckWord(w.what, w.word); err != nil {
			report(w.path, "%v", err)
		}
	}
	if (f.User.Connector == "") != (f.User.Subject == "") {
		report("match.user", "needs both connector and subject")
	}
	if f.User.Subject != "" {
		if err := identity.CheckText("subject", f.User.Subject); err != nil {
			report("match.user.subject", "%v", err)
		}
	}
	if f.LoginID != "" {
		if err := identity.CheckLoginID(f.LoginID); err != nil {
			report("match.login_id", "%v", err)
		}
	}
	if f.Account != "" {
		if err := identity.CheckLogin(f.Account); err != nil {
			report("match.account", "%v", err)
		}
	}
	for path, id := range map[string]identity.MachineID{
		"match.machine": f.Machine, "match.login_proxy": f.LoginProxy, "match.via_proxy": f.ViaProxy,
	} {
		if id == "" {
			continue
		}
		if err := identity.CheckMachineID(id); err != nil {
			report(path, "%v", err)
		}
	}
	if !f.IssuedBefore.IsZero() && !f.Since.IsZero() && !f.Since.Before(f.IssuedBefore) {
		report("match.since", "is not before issued_before: no certificate has both")
	}
}

// OfMachine reports whether the lock is about a machine and nothing else. Such a lock hits the machine
// itself, a node or a proxy: nobody reaches it, nobody is connected through it, and it is refused wherever it
// shows its certificate. These locks are published apart from all others, for everybody to read.
func (l Lock) OfMachine() bool {
	return l.Match.Machine != "" && l.Match == Facts{Machine: l.Match.Machine}
}

// inForce reports whether the lock has not ended.
func (l Lock) inForce(now time.Time) bool { return l.End.IsZero() || now.Before(l.End) }

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
	if !l.inForce(r.Now) {
		return false
	}
	m := l.Match
	if l.OfMachine() && m.Machine == r.Proxy {
		return true // by whichever machine the user is connected
	}
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
// them, and a session asks the rules two dozen times. The zero value has none. It is immutable.
type Locks struct {
	bySerial  map[identity.Serial][]*Lock
	byLoginID map[identity.LoginID][]*Lock
	byUser    map[UserFact][]*Lock
	byMachine map[identity.MachineID][]*Lock
	others    []*Lock // those without any of these facts
}

// NewLocks returns the locks of a list.
func NewLocks(list []Lock) Locks {
	came := make([]*Lock, len(list))
	for i := range list {
		came[i] = &list[i]
	}
	return Locks{}.Change(nil, came)
}

// Change returns the locks without those in gone, and with those in came. The ones in gone are pointers that
// came before, and nobody may change what any of them point to.
func (l Locks) Change(gone, came []*Lock) Locks {
	if len(gone)+len(came) == 0 {
		return l
	}
	next := Locks{
		bySerial:  cloneOrNew(l.bySerial),
		byLoginID: cloneOrNew(l.byLoginID),
		byUser:    cloneOrNew(l.byUser),
		byMachine: cloneOrNew(l.byMachine),
		others:    slices.Clone(l.others),
	}
	left := map[*Lock]bool{} // of gone, those in others
	for _, lock := range gone {
		if !next.index(lock, without(lock)) {
			left[lock] = true
		}
	}
	if len(left) > 0 {
		next.others = slices.DeleteFunc(next.others, func(lock *Lock) bool { return left[lock] })
	}
	for _, lock := range came {
		if !next.index(lock, with(lock)) {
			next.others = append(next.others, lock)
		}
	}
	return next
}

// index changes the list in which a lock is found. It reports false if that is others, which it leaves.
func (l Locks) index(lock *Lock, change func([]*Lock) []*Lock) bool {
	switch m := lock.Match; {
	case m.Serial != 0:
		changeList(l.bySerial, m.Serial, change)
	case m.LoginID != "":
		changeList(l.byLoginID, m.LoginID, change)
	case m.User != UserFact{}:
		changeList(l.byUser, m.User, change)
	case m.Machine != "":
		changeList(l.byMachine, m.Machine, change)
	default:
		return false
	}
	return true
}

// changeList changes the list under a key. It copies the list, because other Locks have it too.
func changeList[K comparable](m map[K][]*Lock, key K, change func([]*Lock) []*Lock) {
	if m[key] = change(slices.Clone(m[key])); len(m[key]) == 0 {
		delete(m, key)
	}
}

// with and without change a list by one lock.
func with(lock *Lock) func([]*Lock) []*Lock {
	return func(list []*Lock) []*Lock { return append(list, lock) }
}

func without(lock *Lock) func([]*Lock) []*Lock {
	return func(list []*Lock) []*Lock {
		return slices.DeleteFunc(list, func(other *Lock) bool { return other == lock })
	}
}

func cloneOrNew[K comparable](m map[K][]*Lock) map[K][]*Lock {
	if m == nil {
		return map[K][]*Lock{}
	}
	return maps.Clone(m)
}

// candidates lists the locks that may hit the request.
func (l Locks) candidates(r Request) [6][]*Lock {
	viaProxy := l.byMachine[r.Proxy]
	if r.Proxy == r.Target.Node.ID {
		viaProxy = nil // they are in the list already
	}
	return [...][]*Lock{
		l.bySerial[r.Serial],
		l.byLoginID[r.Who.LoginID],
		l.byUser[UserFact(r.Who.UserKey())],
		l.byMachine[r.Target.Node.ID],
		viaProxy,
		l.others,
	}
}

// Denying returns a lock that hits the request and denies it, whatever the roles say. ok is false if there is
// none. A request need not have a target: then only locks deny it that name neither a machine nor an account.
func (l Locks) Denying(r Request) (denies Lock, ok bool) {
	for _, list := range l.candidates(r) {
		for _, lock := range list {
			if lock.Effect.Kind != WithoutRole && lock.hits(r) {
				return *lock, true
			}
		}
	}
	return Lock{}, false
}

// TakingRole returns a lock that leaves out what the role allows. ok is false if there is none.
func (l Locks) TakingRole(role string, r Request) (takes Lock, ok bool) {
	for _, list := range l.candidates(r) {
		for _, lock := range list {
			if lock.Effect.Kind == WithoutRole && lock.Effect.Role == role && lock.hits(r) {
				return *lock, true
			}
		}
	}
	return Lock{}, false
}

// MachineDenied returns a lock of the machine alone that is in force at the time. ok is false if there is
// none.
func (l Locks) MachineDenied(id identity.MachineID, now time.Time) (denies Lock, ok bool) {
	for _, lock := range l.byMachine[id] {
		if lock.OfMachine() && lock.Effect.Kind != WithoutRole && lock.inForce(now) {
			return *lock, true
		}
	}
	return Lock{}, false
}

// Denial is the decision of a lock that denies. It tells the user the message, the end, and whom to ask. what
// says what is denied, as "shell as root on web-1".
func (l Lock) Denial(what string) Decision {
	rule := "lock " + l.ID
	reason := fmt.Sprintf("%s denies %s", rule, what)
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
