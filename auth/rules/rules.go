// Package rules answers: what are the signed rules now, and who gets them?
//
// It turns the roles and authorities in the store into the signed documents of internal/rules, and signs a
// head over them every ten seconds and whenever a role changes. A document's bytes, revision and time come
// from the commit that made it, so every replica signs the same document. Heads are not stored: the leader
// signs them after a quorum has confirmed that it leads, and keeps the last one in memory.
package rules

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// HeadInterval is how often a head is signed while nothing changes.
const HeadInterval = 10 * time.Second

// firstEpoch is the epoch of the revisions in a cluster that was never restored from a backup.
const firstEpoch = 1

// Source is what a publisher reads; it writes nothing. state.Reader is one.
type Source interface {
	// Linearize returns nil when a quorum has confirmed that this replica leads.
	Linearize(ctx context.Context) error
	AuthoritiesChain(ctx context.Context) ([]state.Authorities, error)
	RoleSet(ctx context.Context) (*state.RoleSet, error)
	// AwaitRules waits until a role changes after the revision.
	AwaitRules(ctx context.Context, after uint64) error
}

// Config says what a publisher needs; all of it is required.
type Config struct {
	Source  Source
	Cluster string
	Signer  crypto.Signer // the rules key. It stays the same while the publisher runs
	Now     func() time.Time
	Log     *slog.Logger
}

// Publisher signs the rules and hands them out. It is safe for concurrent use.
type Publisher struct {
	cfg Config

	mu        sync.Mutex    // guards the fields below; held only to copy or replace them
	set       signed.Set    // the current one; empty while published is false
	published bool          // a head was signed
	changed   chan struct{} // closed when set is replaced, and replaced itself by a new channel
}

// New makes a publisher. It signs nothing before Publish or Run.
func New(cfg Config) *Publisher { return &Publisher{cfg: cfg, changed: make(chan struct{})} }

// Run signs heads until ctx ends, and then returns nil. A head that could not be signed is logged; the
// next one is tried at its time.
func (p *Publisher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	wake := make(chan struct{}, 1) // one element: changes that come together need one head
	g.Go(func() error { return p.watchStore(ctx, wake) })
	g.Go(func() error { return p.signHeads(ctx, wake) })
	return g.Wait()
}

// signHeads signs a head at once, then every HeadInterval and whenever wake has an element. It returns nil
// when ctx ends.
func (p *Publisher) signHeads(ctx context.Context, wake <-chan struct{}) error {
	tick := time.NewTicker(HeadInterval)
	defer tick.Stop()
	for {
		if err := p.Publish(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("the rules could not be signed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// watchRetry is the pause after the store could not be read or watched.
const watchRetry = time.Second

// watchStore puts an element into wake whenever a role changes, unless one is there already. An error of the
// store is logged, and watchStore goes on after watchRetry. It returns nil when ctx ends.
func (p *Publisher) watchStore(ctx context.Context, wake chan<- struct{}) error {
	for {
		roles, err := p.cfg.Source.RoleSet(ctx)
		if err == nil {
			err = p.cfg.Source.AwaitRules(ctx, roles.Revision)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			p.cfg.Log.Warn("changes of the rules cannot be watched", "err", err)
			backoff.Sleep(ctx, watchRetry)
			continue
		}
		select {
		case wake <- struct{}{}:
		default: // signHeads has not taken the last element yet: its next head covers this change too
		}
	}
}

// Publish signs the rules as they are now, with a new head over them, and makes them the current set that
// Current and Watch return. On an error the current set stays.
func (p *Publisher) Publish(ctx context.Context) error {
	// A replica that has lost leadership unawares would sign a fresh head over old rules.
	if err := p.cfg.Source.Linearize(ctx); err != nil {
		return err
	}
	chain, authoritiesRevision, err := p.chain(ctx)
	if err != nil {
		return err
	}
	roles, rolesRevision, err := p.roles(ctx)
	if err != nil {
		return err
	}
	head, err := signed.SignHead(p.cfg.Signer, signed.Head{
		Cluster: p.cfg.Cluster,
		Epoch:   authoritiesRevision.Epoch,
		Time:    p.cfg.Now().UTC(),
		Docs: map[signed.Kind]signed.Ref{
			signed.AuthoritiesKind: signed.RefTo(chain[len(chain)-1], authoritiesRevision),
			signed.RolesKind:       signed.RefTo(roles, rolesRevision),
		},
	})
	if err != nil {
		return err
	}
	return p.setCurrent(signed.Set{Chain: chain, Roles: roles, Head: head})
}

// chain returns the signed authorities documents, oldest first, and the revision of the newest. The result
// has at least one: a store without any is fault Internal.
func (p *Publisher) chain(ctx context.Context) ([]signed.Signed, signed.Revision, error) {
	docs, err := p.cfg.Source.AuthoritiesChain(ctx)
	if err != nil {
		return nil, signed.Revision{}, err
	}
	if len(docs) == 0 {
		return nil, signed.Revision{}, fault.New(fault.Internal, "rules.Publish",
			"the store holds no authorities document",
			"restore the data folder from a backup")
	}
	out := make([]signed.Signed, len(docs))
	for i, d := range docs {
		out[i] = d.Signed
	}
	return out, docs[len(docs)-1].Revision, nil
}

// roles signs the roles document and returns it with its revision. Revision and time are those of the last
// change of any role, so every replica signs the same bytes.
func (p *Publisher) roles(ctx context.Context) (signed.Signed, signed.Revision, error) {
	roles, err := p.cfg.Source.RoleSet(ctx)
	if err != nil {
		return signed.Signed{}, signed.Revision{}, err
	}
	body, err := json.Marshal(signed.Roles{Roles: roles.Roles})
	if err != nil {
		return signed.Signed{}, signed.Revision{}, fmt.Errorf("encode roles: %w", err)
	}
	rev := signed.Revision{Epoch: firstEpoch, Index: roles.Revision}
	doc, err := signed.SignDocument(p.cfg.Signer, signed.Document{
		Kind:     signed.RolesKind,
		Cluster:  p.cfg.Cluster,
		Revision: rev,
		Time:     roles.Time.UTC(),
		Body:     body,
	})
	return doc, rev, err
}

// setCurrent makes s the current set and wakes everyone who waits for one. A set that is too large for
// machines is fault Exhausted already here, so that auth's log says it; the last set stays current.
func (p *Publisher) setCurrent(s signed.Set) error {
	b, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	if len(b) > signed.MaxSetBytes {
		msg := fmt.Sprintf("the rules are %d bytes, more than %d: machines keep the rules that they have",
			len(b), signed.MaxSetBytes)
		return fault.New(fault.Exhausted, "rules.Publish", msg, "remove roles that are not used")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.published = s, true
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Current returns the set with the last head, and a channel that is closed when there is a newer set. Before
// the first head it returns an empty set and fault Unavailable; the channel is valid also then.
func (p *Publisher) Current() (set signed.Set, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.published {
		return signed.Set{}, p.changed, fault.New(fault.Unavailable, "rules.Current",
			"this auth replica has not signed the rules yet",
			"try again in a moment")
	}
	return p.set, p.changed, nil
}

// Watch calls send with the current set, and then with the set of every new head, until ctx ends or send
// fails; it returns the reason. It never returns nil. Before the first head it waits. While send runs, only
// the newest head is kept: heads before that one are skipped.
func (p *Publisher) Watch(ctx context.Context, send func(signed.Set) error) error {
	for {
		set, changed, err := p.Current()
		if err == nil {
			err = send(set)
		}
		if err != nil && !fault.Is(err, fault.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Authorities returns the signed authorities documents, oldest first. Users verify machines by them; they do
// not get the roles.
func (p *Publisher) Authorities(ctx context.Context) ([]signed.Signed, error) {
	chain, _, err := p.chain(ctx)
	return chain, err
}

// FirstAuthorities makes the authorities document with which a cluster is created. keys are the public keys
// of the authorities; the root key signs the document. It stores nothing.
func FirstAuthorities(
	root crypto.Signer,
	cluster string,
	keys signed.Authorities,
	now time.Time,
) (state.Authorities, error) {
	body, err := json.Marshal(keys)
	if err != nil {
		return state.Authorities{}, fmt.Errorf("encode authorities: %w", err)
	}
	// The records of a new cluster are the first command of its log. No later document has an index this low.
	rev := signed.Revision{Epoch: firstEpoch, Index: 1}
	doc, err := signed.SignDocument(root, signed.Document{
		Kind:     signed.AuthoritiesKind,
		Cluster:  cluster,
		Revision: rev,
		Time:     now.UTC(),
		Body:     body,
	})
	return state.Authorities{Revision: rev, Signed: doc}, err
}
