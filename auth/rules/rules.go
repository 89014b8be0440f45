// Package rules answers: what are the signed rules now, and who is told?
//
// It turns roles and authorities as committed into the signed documents of internal/rules, and every ten
// seconds, and at once on a change, signs a head over them. A document's bytes, revision and time come from
// the commit that made it, so every replica signs the same. Heads are no facts of the store: the leader signs
// them after a quorum has confirmed it, and keeps the last one in memory.
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
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// HeadInterval is how often a head is signed while nothing changes.
const HeadInterval = 10 * time.Second

// firstEpoch is the epoch of a cluster that was never restored.
const firstEpoch = 1

// Config says what a publisher needs; all of it is required.
type Config struct {
	State   *state.State
	Cluster string
	Signer  func() crypto.Signer // the rules key that signs now
	Now     func() time.Time
	Log     *slog.Logger
}

// Publisher signs and hands out the rules. It is safe for concurrent use.
type Publisher struct {
	cfg Config

	mu        sync.Mutex // guards what follows
	set       signed.Set
	published bool          // set holds something
	changed   chan struct{} // closed and replaced with every new head
}

// New makes a publisher; Run makes it publish.
func New(cfg Config) *Publisher { return &Publisher{cfg: cfg, changed: make(chan struct{})} }

// Run signs heads until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	poke := make(chan struct{}, 1)
	g.Go(func() error { return p.watchStore(ctx, poke) })
	g.Go(func() error {
		tick := time.NewTicker(HeadInterval)
		defer tick.Stop()
		for {
			if err := p.Publish(ctx); err != nil && ctx.Err() == nil {
				p.cfg.Log.Warn("the rules could not be signed anew", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-poke:
			case <-tick.C:
			}
		}
	})
	return g.Wait()
}

// watchRetry is how long listen rests after the store could not tell what changed.
const watchRetry = time.Second

// watchStore pokes when a rule changes.
func (p *Publisher) watchStore(ctx context.Context, poke chan<- struct{}) error {
	for {
		book, err := p.cfg.State.RoleSet(ctx)
		if err == nil {
			err = p.cfg.State.AwaitRules(ctx, book.Revision)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			p.cfg.Log.Warn("changes of rules cannot be seen", "err", err)
			sleep(ctx, watchRetry)
			continue
		}
		select {
		case poke <- struct{}{}:
		default:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Publish signs a head over the rules as they are now, once a quorum has confirmed that this replica leads.
func (p *Publisher) Publish(ctx context.Context) error {
	if err := p.cfg.State.Linearize(ctx); err != nil {
		return err
	}
	chain, last, err := p.chain(ctx)
	if err != nil {
		return err
	}
	roles, rev, err := p.roles(ctx)
	if err != nil {
		return err
	}
	now := p.cfg.Now().UTC()
	head, err := signed.SignHead(p.cfg.Signer(), signed.Head{
		Cluster: p.cfg.Cluster, Epoch: last.Epoch, Time: now,
		Docs: map[signed.Kind]signed.Ref{
			signed.AuthoritiesKind: signed.RefTo(chain[len(chain)-1], last),
			signed.RolesKind:       signed.RefTo(roles, rev),
		},
	})
	if err != nil {
		return err
	}
	return p.setCurrent(signed.Set{Chain: chain, Roles: roles, Head: head})
}

func (p *Publisher) chain(ctx context.Context) ([]signed.Signed, signed.Revision, error) {
	docs, err := p.cfg.State.AuthoritiesChain(ctx)
	if err != nil {
		return nil, signed.Revision{}, err
	}
	if len(docs) == 0 {
		return nil, signed.Revision{}, fault.New(
			fault.Internal,
			"rules.Publish",
			"the store holds no authorities document",
			"restore the data folder from a backup",
		)
	}
	out := make([]signed.Signed, len(docs))
	for i, d := range docs {
		out[i] = d.Signed
	}
	return out, docs[len(docs)-1].Revision, nil
}

// roles signs the roles document of the last change of any role.
func (p *Publisher) roles(ctx context.Context) (signed.Signed, signed.Revision, error) {
	book, err := p.cfg.State.RoleSet(ctx)
	if err != nil {
		return signed.Signed{}, signed.Revision{}, err
	}
	body, err := json.Marshal(signed.Roles{Roles: book.Roles})
	if err != nil {
		return signed.Signed{}, signed.Revision{}, fmt.Errorf("encode roles: %w", err)
	}
	rev := signed.Revision{Epoch: firstEpoch, Index: book.Revision}
	s, err := signed.SignDocument(p.cfg.Signer(), signed.Document{
		Kind: signed.RolesKind, Cluster: p.cfg.Cluster, Revision: rev, Time: book.Time.UTC(), Body: body,
	})
	return s, rev, err
}

// setCurrent makes a set the current one. One that machines could not read is refused here, where an
// administrator can still be told.
func (p *Publisher) setCurrent(s signed.Set) error {
	b, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	if len(b) > signed.MaxSetBytes {
		return fault.New(
			fault.Exhausted,
			"rules.Publish",
			fmt.Sprintf(
				"the rules are %d bytes, more than %d: machines keep the last ones",
				len(b),
				signed.MaxSetBytes,
			),
			"remove roles that are not used",
		)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.published = s, true
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Current returns the set with the last head, and a channel that is closed when there is a newer one.
func (p *Publisher) Current() (signed.Set, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.published {
		return signed.Set{}, p.changed, fault.New(
			fault.Unavailable,
			"rules.Current",
			"this auth replica has not signed the rules yet",
			"try again in a moment",
		)
	}
	return p.set, p.changed, nil
}

// Watch sends the set as of now and then one with every new head, until ctx ends or send fails.
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

// Authorities returns the chain of the signed authorities documents: what people, who get no roles, trust
// machines by.
func (p *Publisher) Authorities(ctx context.Context) ([]signed.Signed, error) {
	chain, _, err := p.chain(ctx)
	return chain, err
}

// FirstAuthorities makes the authorities document a cluster is born with, signed by the root key.
func FirstAuthorities(
	root crypto.Signer,
	cluster string,
	a signed.Authorities,
	now time.Time,
) (state.Authorities, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return state.Authorities{}, fmt.Errorf("encode authorities: %w", err)
	}
	// Birth is the first thing any log holds; no later document can come by an index this low.
	rev := signed.Revision{Epoch: firstEpoch, Index: 1}
	s, err := signed.SignDocument(
		root,
		signed.Document{
			Kind:     signed.AuthoritiesKind,
			Cluster:  cluster,
			Revision: rev,
			Time:     now.UTC(),
			Body:     body,
		},
	)
	return state.Authorities{Revision: rev, Signed: s}, err
}
