// Package open answers: what do users have open in this process, and may it go on?
//
// A node and a proxy register each connection, session, forward and relay, and decide about it again at each
// change of the rules. Whoever opens something registers it first and asks the rules after that. A change of
// the rules between the two is then noticed: by the one who asks, or by the registry, which finds what is
// registered. The registry also decides every Interval, because certificates, locks and the rules themselves
// end at a time and not by a change.
package open

import (
	"context"
	"crypto/sha256"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Interval is how late the end of a certificate, a lock or the rules is noticed at most. A change of the
// rules is noticed at once.
const Interval = 10 * time.Second

// Use is what the decision about something that is open depends on, apart from the rules and the time. The
// registry decides once for everything of equal use, so the ten thousand connections that few users forward
// cost few decisions.
type Use struct {
	Certificate [sha256.Size]byte // the SHA-256 of the certificate by which the user is known
	From        netip.Addr        // the client's address; zero when it is not known
	Proxy       identity.MachineID
	Login       identity.Login // empty at a proxy, which does not know it
	Node        identity.MachineID
	Action      access.Action // empty: to be connected at all
}

// User is who has something open.
type User struct {
	identity.Identity
	Serial identity.Serial // of the certificate
}

// Holder is the part of a program that has something open. The registry calls its methods on the goroutine of
// Run, one at a time.
type Holder interface {
	// User returns who has it open. It is always the same.
	User() User
	// Decide returns nil if the use may go on by the rules and the time. Otherwise the error is a fault: of
	// kind Denied or Expired, or Unavailable if nothing may be decided by these rules.
	Decide(use Use, trust *rules.Trust, now time.Time) error
}

// Rules are the rules in force. Current may return nil while there are none.
type Rules interface {
	Current() *rules.Trust
	// Changed returns a channel that is closed when other documents get in force.
	Changed() <-chan struct{}
}

// Denial says that something open is not allowed any more. There is one for each use, however much is open.
type Denial struct {
	Use     Use
	User    User
	Reason  error    // the fault of Holder.Decide
	Holders []Holder // one for each entry that was not denied before
}

// Config says what a registry needs; all of it is required.
type Config struct {
	Rules Rules
	Now   func() time.Time // the clock, as Holder.Decide gets it
	// Denied is called with what is not allowed any more, each time that this is found out about something.
	// It is called again for the same entry only if it was allowed in between. It may add and remove entries.
	Denied func([]Denial)
	// Allowed is called with what Denied got and what is allowed again. Nil: nobody needs to know.
	Allowed func([]Holder)
}

// Registry knows what is open in one process. Its methods may be called by several goroutines at once; Run is
// called once.
type Registry struct {
	cfg  Config
	wake chan struct{} // has a value if Run must decide again although no document has changed

	mu     sync.Mutex // guards the fields below, and the entries and groups in them
	groups map[Use]*group
	open   int    // entries
	rounds uint64 // how often decide has listed the groups
}

// group is everything open of one use.
type group struct {
	use   Use
	first *Entry // of a list in both directions
	size  int
	// denied says that an entry of the group was denied, and that it has not been allowed since.
	denied bool
}

// Entry is one thing that is open.
type Entry struct {
	registry *Registry
	holder   Holder
	group    *group // nil: the entry was removed
	round    uint64 // Registry.rounds when it was added
	// denied says that Config.Denied has got the entry, and that it has not been allowed since.
	denied     bool
	prev, next *Entry // in group
}

// New returns a registry with nothing in it. It starts nothing: Run decides.
func New(cfg Config) *Registry {
	return &Registry{cfg: cfg, wake: make(chan struct{}, 1), groups: map[Use]*group{}}
}

// Add registers something that is about to be opened. After that, and not before, the caller asks the rules
// whether it may be opened. The caller removes the entry when it is refused, or when it has ended.
func (r *Registry) Add(use Use, holder Holder) *Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.group(use)
	e := &Entry{registry: r, holder: holder, round: r.rounds}
	g.add(e)
	r.open++
	return e
}

// Change gives another use to the entries whose holders are selected, and makes Run decide again. It is for a
// certificate that takes the place of another while something is open by it. A decision that has begun may
// still ask a holder about the use of before.
func (r *Registry) Change(selected func(Holder) bool, change func(Use) Use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for use, from := range maps.Clone(r.groups) {
		for e := from.first; e != nil; {
			next := e.next
			if selected(e.holder) {
				from.remove(e)
				r.group(change(use)).add(e)
			}
			e = next
		}
		if from.size == 0 {
			delete(r.groups, use)
		}
	}
	r.decideAgain()
}

// group returns the group of a use, which it makes if there is none.
func (r *Registry) group(use Use) *group {
	g := r.groups[use]
	if g == nil {
		g = &group{use: use}
		r.groups[use] = g
	}
	return g
}

// add adds an entry that is in no group, and remove takes an entry out.
func (g *group) add(e *Entry) {
	e.group, e.prev, e.next = g, nil, g.first
	if g.first != nil {
		g.first.prev = e
	}
	g.first = e
	g.size++
}

func (g *group) remove(e *Entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		g.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
	e.group, e.prev, e.next = nil, nil, nil
	g.size--
}

// decideAgain makes Run decide again although no document has changed.
func (r *Registry) decideAgain() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// AddDecided is Add for something that was decided before it could be registered, by the rules under the head
// of this number. If another head is in force by now, Run decides again.
func (r *Registry) AddDecided(use Use, holder Holder, head rules.Sequence) *Entry {
	e := r.Add(use, holder)
	if now := r.cfg.Rules.Current(); now == nil || now.Head.Sequence != head {
		r.decideAgain()
	}
	return e
}

// Remove removes the entry. Further calls do nothing, nor does a call for a nil entry.
func (e *Entry) Remove() {
	if e == nil {
		return
	}
	r := e.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	g := e.group
	if g == nil {
		return
	}
	g.remove(e)
	r.open--
	if g.size == 0 {
		delete(r.groups, g.use)
	}
}

// Len returns how many entries there are.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// Run decides about everything that is open, at each change of the rules and every Interval, until ctx ends.
// It returns nil.
func (r *Registry) Run(ctx context.Context) error {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		changed := r.cfg.Rules.Changed() // before the rules are read, so that no change is missed
		denials, again := r.decide()
		if len(denials) > 0 {
			r.cfg.Denied(denials)
		}
		if len(again) > 0 && r.cfg.Allowed != nil {
			r.cfg.Allowed(again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-r.wake:
		case <-ticker.C:
		}
	}
}

// decided is the decision about a group.
type decided struct {
	group  *group
	use    Use
	holder Holder // of one of its entries
	err    error
}

// decide decides about each group, and returns what is not allowed any more, and what was denied and is
// allowed again. It holds no lock while it decides.
func (r *Registry) decide() (denials []Denial, again []Holder) {
	all := r.snapshot()
	trust, now := r.cfg.Rules.Current(), r.cfg.Now()
	for i := range all {
		all[i].err = all[i].holder.Decide(all[i].use, trust, now)
		if newer := r.cfg.Rules.Current(); all[i].err != nil && newer != trust {
			// The entry may have been opened by the newer rules, which may allow it.
			all[i].err = all[i].holder.Decide(all[i].use, newer, now)
		}
	}
	return r.apply(all)
}

// snapshot lists the groups.
func (r *Registry) snapshot() []decided {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds++
	all := make([]decided, 0, len(r.groups))
	for use, g := range r.groups {
		all = append(all, decided{group: g, use: use, holder: g.first.holder})
	}
	return all
}

// apply notes the decisions in the groups that still exist. It returns what they deny and what was not denied
// before, and what they allow and what was denied before. A denial says nothing of what was added since the
// groups were listed: newer rules than those of the denial may have allowed it. If older ones did, Run
// decides again, because it took Changed before.
func (r *Registry) apply(all []decided) (denials []Denial, again []Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range all {
		g := d.group
		wasDenied := g.denied
		g.denied = d.err != nil
		if !wasDenied && !g.denied {
			continue // as nearly always
		}
		var holders []Holder
		for e := g.first; e != nil; e = e.next {
			if g.denied && e.round == r.rounds {
				continue
			}
			if g.denied && !e.denied {
				holders = append(holders, e.holder)
			}
			if !g.denied && e.denied {
				again = append(again, e.holder)
			}
			e.denied = g.denied
		}
		if len(holders) > 0 {
			denials = append(denials, Denial{d.use, d.holder.User(), d.err, holders})
		}
	}
	return denials, again
}
