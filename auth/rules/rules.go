// Package rules answers: what are the signed rules now, who gets them, and who decides by them?
//
// It turns the authorities, roles, locks and settings in the store into the signed documents of
// internal/rules, and signs a head over them every ten seconds and whenever one changes. A document's bytes,
// revision and time come from the commit that made it, so every replica signs the same document. Heads are
// not stored: the leader signs them after a quorum has confirmed that it leads, and keeps the last one in
// memory.
//
// Heads are ordered by their number (term, counter), and two different heads never have the same one. A
// Publisher takes its term from the store, by a compare-and-set that no two calls pass with the same number,
// and counts its heads in memory. So after a crash, a restart or a change of the leader the term is another
// one and higher. Before each head the Publisher has confirmed that it leads, and has read that the term is
// still the last one: a leader that was away in between takes a new one. A head that is signed although
// leadership was lost a moment ago has the older term, and is never taken for newer than one of the new
// leader. A snapshot contains the term like any record. After a restore from a backup the store has forgotten
// terms; state.BeginRulesTerm says why the next is higher all the same.
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
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// HeadInterval is how often a head is signed while nothing changes.
const HeadInterval = 10 * time.Second

// firstEpoch is the epoch of the revisions in a cluster that was never restored from a backup.
const firstEpoch = 1

// Source is what a publisher reads. It writes only the number of a term. state.Rules is one.
type Source interface {
	// Linearize returns nil when a quorum has confirmed that this replica leads.
	Linearize(ctx context.Context) error
	AuthoritiesChain(ctx context.Context) ([]state.Authorities, error)
	RoleSet(ctx context.Context) (*state.RoleSet, error)
	PublishedSettings(ctx context.Context) (state.PublishedSettings, error)
	LockSet(ctx context.Context) (*state.LockSet, error)
	// RulesRevision is the revision of the last change of any rules, and AwaitRules waits for a later one.
	RulesRevision(ctx context.Context) (uint64, error)
	AwaitRules(ctx context.Context, after uint64) error
	// RulesTerm is the number of the last term, and BeginRulesTerm begins the next one.
	RulesTerm(ctx context.Context) (uint64, error)
	BeginRulesTerm(ctx context.Context, now time.Time) (uint64, error)
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

	signing sync.Mutex                     // held while a head is signed; guards number and docs; before mu
	number  signed.Sequence                // of the last head; zero before the first
	docs    map[signed.Kind]signedDocument // the documents that were signed last

	mu      sync.Mutex    // guards the fields below; held only to copy or replace them
	set     signed.Set    // the current one; empty while feed is nil
	feed    *signed.Feed  // set, encoded; nil: no head was signed yet
	changed chan struct{} // closed when set is replaced, and replaced itself by a new channel
}

// signedDocument is a signed document with its entry in the head.
type signedDocument struct {
	signed.Signed
	ref signed.Ref
}

// New makes a publisher. It signs nothing before Publish or Run.
func New(cfg Config) *Publisher {
	docs := map[signed.Kind]signedDocument{}
	return &Publisher{cfg: cfg, docs: docs, changed: make(chan struct{})}
}

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

// watchStore puts an element into wake whenever any rules change, unless one is there already. An error of
// the store is logged, and watchStore goes on after watchRetry. It returns nil when ctx ends.
func (p *Publisher) watchStore(ctx context.Context, wake chan<- struct{}) error {
	for {
		revision, err := p.cfg.Source.RulesRevision(ctx)
		if err == nil {
			err = p.cfg.Source.AwaitRules(ctx, revision)
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
	p.signing.Lock()
	defer p.signing.Unlock()
	// A replica that has lost leadership unawares would sign a fresh head over old rules.
	if err := p.cfg.Source.Linearize(ctx); err != nil {
		return err
	}
	chain, newest, err := p.chain(ctx)
	if err != nil {
		return err
	}
	link := chain[len(chain)-1]
	if err := signed.MaySign(link, p.cfg.Signer.Public()); err != nil {
		return rulesKeyUntrusted.Wrap(err, opPublish)
	}
	head := signed.Head{
		Cluster: p.cfg.Cluster,
		Epoch:   newest.Epoch,
		Docs:    map[signed.Kind]signed.Ref{signed.AuthoritiesKind: signed.RefTo(link, newest)},
	}
	set := signed.Set{V: signed.Version, Chain: chain, Docs: map[signed.Kind]signed.Signed{}}
	if err := p.signDocuments(ctx, newest); err != nil {
		return err
	}
	for kind, doc := range p.docs {
		set.Docs[kind], head.Docs[kind] = doc.Signed, doc.ref
	}
	if head.Sequence, err = p.nextNumber(ctx); err != nil {
		return err
	}
	head.Time = p.cfg.Now().UTC()
	if set.Head, err = signed.SignHead(p.cfg.Signer, head); err != nil {
		return err
	}
	return p.setCurrent(set)
}

// nextNumber returns the number of the next head. It begins a term if this publisher has none, or if another
// one has begun a term since. The caller holds p.signing and has confirmed that this replica leads.
func (p *Publisher) nextNumber(ctx context.Context) (signed.Sequence, error) {
	last, err := p.cfg.Source.RulesTerm(ctx)
	if err != nil {
		return signed.Sequence{}, err
	}
	if p.number.Term == 0 || p.number.Term != last {
		term, err := p.cfg.Source.BeginRulesTerm(ctx, p.cfg.Now())
		if err != nil {
			return signed.Sequence{}, err
		}
		p.number = signed.Sequence{Term: term}
	}
	p.number.Counter++
	return p.number, nil
}

// chain returns the signed authorities documents of the present epoch, oldest first, and the revision of the
// newest. What was before the root raised the epoch is not sent any more: the first document of the epoch is
// signed by the root. The result has at least one: a store without any is fault Internal.
func (p *Publisher) chain(ctx context.Context) ([]signed.Signed, signed.Revision, error) {
	docs, err := p.cfg.Source.AuthoritiesChain(ctx)
	if err != nil {
		return nil, signed.Revision{}, err
	}
	if len(docs) == 0 {
		return nil, signed.Revision{}, authoritiesMissing.New(opPublish)
	}
	newest := docs[len(docs)-1].Revision
	var out []signed.Signed
	for _, d := range docs {
		if d.Revision.Epoch == newest.Epoch {
			out = append(out, d.Signed)
		}
	}
	return out, newest, nil
}

// signDocuments signs the documents that have changed, and puts them into p.docs. The caller holds p.signing.
func (p *Publisher) signDocuments(ctx context.Context, newest signed.Revision) error {
	roles, err := p.cfg.Source.RoleSet(ctx)
	if err != nil {
		return err
	}
	settings, err := p.cfg.Source.PublishedSettings(ctx)
	if err != nil {
		return err
	}
	locks, err := p.cfg.Source.LockSet(ctx)
	if err != nil {
		return err
	}
	// A role that is left out may be one that denies, and a lock always does.
	if len(roles.Unreadable)+len(locks.Unreadable) > 0 {
		p.cfg.Log.Error(
			"this release cannot read some roles or locks: the last rules that it could read stay in "+
				"force, and changes have no effect until the newer release runs again",
			"roles", roles.Unreadable, "locks", locks.Unreadable)
	}
	for kind, part := range map[signed.Kind]state.PublishedLocks{
		signed.MachineLocksKind: locks.Machines, signed.UserLocksKind: locks.Users,
	} {
		body := signed.Locks{Locks: append([]access.Lock{}, part.Locks...)} // an empty list, not null
		if err := p.signDocument(kind, newest, part.Revision, part.Time, body); err != nil {
			return err
		}
	}
	body := signed.Roles{Roles: roles.Roles}
	if err := p.signDocument(signed.RolesKind, newest, roles.Revision, roles.Time, body); err != nil {
		return err
	}
	return p.signDocument(signed.SettingsKind, newest, settings.Revision, settings.Time, settings.Settings)
}

// signDocument signs one document and puts it into p.docs, unless it is there already. Revision and time are
// those of the last change, so every replica signs the same bytes. A document is made anew when newer
// authorities are in force, and so is always signed by a key that they have.
func (p *Publisher) signDocument(
	kind signed.Kind, newest signed.Revision, index uint64, changed time.Time, body any,
) error {
	revision := signed.Revision{Epoch: newest.Epoch, Index: max(index, newest.Index)}
	if have, ok := p.docs[kind]; ok && have.ref.Revision == revision {
		return nil
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	doc, err := signed.SignDocument(p.cfg.Signer, signed.Document{
		Kind:     kind,
		Cluster:  p.cfg.Cluster,
		Revision: revision,
		Time:     changed.UTC(),
		Body:     raw,
	})
	if err != nil {
		return err
	}
	p.docs[kind] = signedDocument{doc, signed.RefTo(doc, revision)}
	return nil
}

// setCurrent makes s the current set and wakes everyone who waits for one. A set that is too large for
// machines is fault Exhausted already here, so that auth's log says it; the last set stays current.
func (p *Publisher) setCurrent(s signed.Set) error {
	if size := s.Size(); size > signed.MaxSetBytes {
		return rulesTooLarge.New(opPublish, fault.Args{"bytes": size, "max": signed.MaxSetBytes})
	}
	p.mu.Lock()
	feed := p.feed
	p.mu.Unlock()
	if feed == nil {
		feed = &signed.Feed{}
	}
	next, err := feed.Follow(s) // without mu: a large document takes time
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.feed = s, next
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Current returns the set with the last head, and a channel that is closed when there is a newer set. Before
// the first head it returns an empty set and fault Unavailable; the channel is valid also then.
func (p *Publisher) Current() (set signed.Set, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed == nil {
		return signed.Set{}, p.changed, rulesNotSigned.New("rules.Current")
	}
	return p.set, p.changed, nil
}

// MachineLocks returns the document of machine locks in the current set. Before the first head it returns
// fault Unavailable.
func (p *Publisher) MachineLocks() (signed.Signed, error) {
	set, _, err := p.Current()
	return set.Docs[signed.MachineLocksKind], err
}

// Pieces returns the pieces of the current set that a machine lacks, which has the documents with these
// digests. The head is the last one. Before the first head it returns fault Unavailable.
func (p *Publisher) Pieces(have map[signed.Kind][]byte) ([][]byte, error) {
	p.mu.Lock()
	feed := p.feed
	p.mu.Unlock()
	if feed == nil {
		return nil, rulesNotSigned.New("rules.Current")
	}
	pieces, head := feed.Next(carriedBy(have))
	return append(pieces, head), nil
}

// carriedBy returns the documents that a machine says it has, in the form that a feed takes.
func carriedBy(have map[signed.Kind][]byte) map[string]signed.Digest {
	carried := map[string]signed.Digest{}
	for kind, digest := range have {
		if len(digest) == len(signed.Digest{}) {
			carried[string(kind)] = signed.Digest(digest)
		}
	}
	return carried
}

// Watch calls send with each piece of the current set that a machine lacks, which has the documents with
// these digests, and then with what changes by every new head: the pieces that are new to the machine, and
// the head. It goes on until ctx ends or send fails, and returns the reason. It never returns nil. Before the
// first head it waits. While send runs, only the newest set is kept: those before that one are skipped.
func (p *Publisher) Watch(
	ctx context.Context, have map[signed.Kind][]byte, send func(piece []byte) error,
) error {
	carried := carriedBy(have)
	for {
		p.mu.Lock()
		feed, changed := p.feed, p.changed
		p.mu.Unlock()
		if feed != nil {
			pieces, head := feed.Next(carried)
			carried = feed.Digests()
			for _, piece := range append(pieces, head) {
				if err := send(piece); err != nil {
					return err
				}
			}
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
	// The records of a new cluster are the first command of its log. No later document has an index this low.
	rev := signed.Revision{Epoch: firstEpoch, Index: 1}
	doc, err := SignAuthorities(root, cluster, rev, keys, now)
	return state.Authorities{Revision: rev, Signed: doc}, err
}

// SignAuthorities signs an authorities document with the root key.
func SignAuthorities(
	root crypto.Signer, cluster string, rev signed.Revision, keys signed.Authorities, now time.Time,
) (signed.Signed, error) {
	body, err := json.Marshal(keys)
	if err != nil {
		return signed.Signed{}, fmt.Errorf("encode authorities: %w", err)
	}
	return signed.SignDocument(root, signed.Document{
		Kind:     signed.AuthoritiesKind,
		Cluster:  cluster,
		Revision: rev,
		Time:     now.UTC(),
		Body:     body,
	})
}
