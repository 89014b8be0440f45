package state

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/rules"
)

// rulesVersion is written with every change of one kind of rules. Its revision is the revision of the signed
// document and its time is the document's time, so every replica that signs makes the same bytes.
type rulesVersion struct {
	Time time.Time `json:"time"`
}

// authoritiesVersionKey is the key of the rulesVersion of the authorities. There is none before the first
// document is added to those of a new cluster.
const authoritiesVersionKey = "authorities"

// rulesTerm is the number of the last term in which heads were signed: see auth/rules.
type rulesTerm struct {
	Term uint64 `json:"term"`
}

var (
	rulesVersions = table[rulesVersion]{
		prefix: "rules-version/", noun: "version of", remedy: bootstrapRemedy,
	}
	rulesTerms  = table[rulesTerm]{prefix: "rules-term/", noun: "term of the rules", remedy: bootstrapRemedy}
	authorities = table[Authorities]{
		prefix: "authorities/", noun: "authorities document", remedy: bootstrapRemedy,
	}
)

// Authorities is one signed authorities document of the chain.
type Authorities struct {
	Revision rules.Revision `json:"revision"`
	Signed   rules.Signed   `json:"signed"`
}

// key orders the chain by epoch and index.
func (a Authorities) key() string {
	return fmt.Sprintf("%020d.%020d", a.Revision.Epoch, a.Revision.Index)
}

// AuthoritiesChain returns all signed authorities documents, oldest first. It is empty before the cluster is
// created.
func (r *Reader) AuthoritiesChain(ctx context.Context) ([]Authorities, error) {
	got, err := authorities.all(ctx, r)
	if err != nil {
		return nil, err
	}
	return values(got), nil
}

// RulesRevision returns the revision of the last change of any rules.
func (r *Reader) RulesRevision(ctx context.Context) (uint64, error) {
	versions, err := rulesVersions.all(ctx, r)
	var newest uint64
	for _, v := range versions {
		newest = max(newest, v.Revision)
	}
	return newest, err
}

// AwaitRules returns nil when any rules have changed after the revision, at once if they have already. It
// returns an error when ctx or the store ends before.
func (r *Reader) AwaitRules(ctx context.Context, after uint64) error {
	now, err := rulesVersions.list(ctx, r, Page{})
	if err != nil {
		return err
	}
	for _, v := range now.Items {
		if v.Revision > after {
			return nil
		}
	}
	// The watch begins at the revision of the whole store in the list. A change after the list is not missed,
	// and the store keeps the events after a revision that is this new.
	w, err := r.store.Watch(ctx, rulesVersions.prefix, now.revision)
	if err != nil {
		return err
	}
	_, err = w.Next(ctx)
	return err
}

// RulesTerm returns the number of the last term that BeginRulesTerm began, and 0 before the first.
func (r *Reader) RulesTerm(ctx context.Context) (uint64, error) {
	got, err := rulesTerms.getOrNew(ctx, r, clusterKey)
	return got.Value.Term, err
}

// Rules changes what belongs to all rules together, and reads.
type Rules struct{ writer }

// BeginRulesTerm stores the number of a new term and returns it. No two calls return the same number, on
// whichever replicas, and a later call returns a higher one.
//
// The number is at least that of the seconds since 1970 by the clock. This matters only if the store was
// restored from a backup: it has forgotten the terms after the backup, and still begins a higher one.
func (w *Rules) BeginRulesTerm(ctx context.Context, now time.Time) (uint64, error) {
	var term uint64
	err := retryOnConflict(func() error {
		old, err := rulesTerms.getOrNew(ctx, w.Reader, clusterKey)
		if err != nil {
			return err
		}
		term = max(old.Value.Term+1, uint64(max(now.Unix(), 0)))
		var c change
		rulesTerms.replaceOrCreate(&c, old, rulesTerm{Term: term})
		_, err = w.commit(ctx, &c)
		return err
	})
	return term, err
}

// addAuthorities adds to c the document after those in chain. The whole change fails if the chain was changed
// since it was read.
func (r *Reader) addAuthorities(
	ctx context.Context, c *change, chain []Authorities, next Authorities, now time.Time,
) error {
	version, err := rulesVersions.getOrNew(ctx, r, authoritiesVersionKey)
	if err != nil {
		return err
	}
	rulesVersions.replaceOrCreate(c, version, rulesVersion{Time: now.UTC()})
	have, err := r.AuthoritiesChain(ctx)
	if err != nil {
		return err
	}
	if len(have) != len(chain) {
		return conflictFault("state.addAuthorities")
	}
	authorities.create(c, next.key(), next)
	return nil
}
