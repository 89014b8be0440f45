package rules

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

// MaxAge is how old a head may be. With an older one a node decides nothing any more (design section 6,
// max_rules_age).
const MaxAge = 24 * time.Hour

// Trust is a verified set of rules. It is immutable: Advance makes a new one.
type Trust struct {
	Cluster           string
	Pin               identity.Pin
	Authorities       ParsedAuthorities
	Policy            access.Policy
	Head              Head
	set               Set
	newestAuthorities Document // the newest authorities document
}

// Open verifies a whole set from nothing but the pin. It verifies the chain from the first authorities, which
// the root key signed, to the newest.
func Open(pin identity.Pin, s Set) (*Trust, error) {
	t, err := verifyChain(pin, s.Chain)
	if err != nil {
		return nil, err
	}
	if err := t.setHeadAndRoles(s); err != nil {
		return nil, err
	}
	return t, nil
}

// OpenAuthorities verifies a chain of authorities alone, for a client that gets no roles. It returns the
// cluster's name and its authorities.
func OpenAuthorities(pin identity.Pin, chain []Signed) (cluster string, p ParsedAuthorities, err error) {
	t, err := verifyChain(pin, chain)
	if err != nil {
		return "", ParsedAuthorities{}, err
	}
	return t.Cluster, t.Authorities, nil
}

// verifyChain verifies a chain of authorities that starts at the first one.
func verifyChain(pin identity.Pin, chain []Signed) (*Trust, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("rules: the set has no authorities")
	}
	t, err := verifyFirstLink(pin, chain[0])
	if err != nil {
		return nil, err
	}
	for _, link := range chain[1:] {
		if err := t.addAuthorities(link); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Advance verifies a newer set against this one. It refuses a set that is older in any part, so nothing that
// was removed comes back. The chain of the set may start at, before or after the trusted authorities, as long
// as it continues them. t stays as it is.
func (t *Trust) Advance(s Set) (*Trust, error) {
	n := *t
	n.set.Chain = append([]Signed(nil), t.set.Chain...)
	for _, link := range s.Chain {
		if n.hasLink(link) {
			continue
		}
		if err := n.addAuthorities(link); err != nil {
			return nil, err
		}
	}
	if err := n.setHeadAndRoles(s); err != nil {
		return nil, err
	}
	if n.Head.Epoch < t.Head.Epoch || n.Head.Time.Before(t.Head.Time) {
		return nil, fmt.Errorf(
			"rules: head of %s is older than the one of %s already held",
			n.Head.Time.UTC().Format(time.RFC3339), t.Head.Time.UTC().Format(time.RFC3339),
		)
	}
	for kind, ref := range t.Head.Docs {
		if now, ok := n.Head.Docs[kind]; !ok || now.Revision.Before(ref.Revision) {
			return nil, fmt.Errorf("rules: %s would go back from revision %s", kind, ref.Revision)
		}
	}
	return &n, nil
}

// AdvanceHead verifies a newer head over the documents of t. It refuses a head that names others, as Advance
// does.
func (t *Trust) AdvanceHead(head Signed) (*Trust, error) {
	return t.Advance(Set{Roles: t.set.Roles, Head: head})
}

// Set returns the whole verified set, to pass on or to save.
func (t *Trust) Set() Set { return t.set }

// Age is how long ago the head was signed. It is negative when this machine's clock is behind the cluster's.
func (t *Trust) Age(now time.Time) time.Duration { return now.Sub(t.Head.Time) }

// Usable refuses rules that are older than MaxAge, and ones signed more than identity.Skew in the future,
// which means that this machine's clock is wrong.
func (t *Trust) Usable(now time.Time) error {
	age := t.Age(now)
	switch {
	case age > MaxAge:
		return fmt.Errorf(
			"the rules are %s old, more than %s: this machine has not heard from the cluster "+
				"(or its clock is ahead: it says %s)",
			age.Round(time.Minute),
			MaxAge,
			now.UTC().Format(time.RFC3339),
		)
	case age < -identity.Skew:
		return fmt.Errorf(
			"the rules were signed %s in the future: this machine's clock is behind (it says %s)",
			(-age).Round(time.Second), now.UTC().Format(time.RFC3339),
		)
	}
	return nil
}

// verifyFirstLink verifies the first authorities document, which the root key with the pin must have signed.
func verifyFirstLink(pin identity.Pin, link Signed) (*Trust, error) {
	doc, auth, err := decodeAuthorities(link.Payload)
	if err != nil {
		return nil, err
	}
	if err := auth.checkPin(pin); err != nil {
		return nil, err
	}
	if _, err := link.verify(AuthoritiesKind, []crypto.PublicKey{auth.Root.PublicKey}); err != nil {
		return nil, err
	}
	return &Trust{
		Cluster:           doc.Cluster,
		Pin:               pin,
		Authorities:       auth,
		set:               Set{Chain: []Signed{link}},
		newestAuthorities: doc,
	}, nil
}

// addAuthorities verifies and adds the next authorities document, which a rules key of the current one must
// have signed.
func (t *Trust) addAuthorities(link Signed) error {
	if _, err := link.verify(AuthoritiesKind, t.Authorities.rules); err != nil {
		return err
	}
	doc, auth, err := decodeAuthorities(link.Payload)
	if err != nil {
		return err
	}
	if doc.Cluster != t.Cluster || !t.newestAuthorities.Revision.Before(doc.Revision) {
		return fmt.Errorf(
			"rules: authorities %s of %q do not follow %s of %q",
			doc.Revision, doc.Cluster, t.newestAuthorities.Revision, t.Cluster,
		)
	}
	if err := auth.checkPin(t.Pin); err != nil {
		return err
	}
	t.Authorities, t.newestAuthorities = auth, doc
	t.set.Chain = append(t.set.Chain, link)
	return nil
}

// setHeadAndRoles verifies head and roles under the newest authorities, and takes them over.
func (t *Trust) setHeadAndRoles(s Set) error {
	payload, err := s.Head.verify(headKind, t.Authorities.rules)
	if err != nil {
		return err
	}
	var head Head
	if err := json.Unmarshal(payload, &head); err != nil {
		return fmt.Errorf("rules: head: %w", err)
	}
	if head.V != Version {
		return fmt.Errorf("rules: head is of version %d, this program reads version %d", head.V, Version)
	}
	if head.Cluster != t.Cluster {
		return fmt.Errorf("rules: head is of cluster %q, not %q", head.Cluster, t.Cluster)
	}
	if err := head.checkRef(AuthoritiesKind, t.set.Chain[len(t.set.Chain)-1],
		t.newestAuthorities.Revision); err != nil {
		return err
	}
	policy, rev, err := verifyRoles(s.Roles, t.Cluster, t.Authorities.rules)
	if err != nil {
		return err
	}
	if err := head.checkRef(RolesKind, s.Roles, rev); err != nil {
		return err
	}
	t.Head, t.Policy, t.set.Roles, t.set.Head = head, policy, s.Roles, s.Head
	return nil
}

func (t *Trust) hasLink(link Signed) bool {
	for _, have := range t.set.Chain {
		if have.equal(link) {
			return true
		}
	}
	return false
}

// checkRef refuses a document that the head does not name, so that documents of different heads are never
// mixed.
func (h Head) checkRef(kind Kind, s Signed, r Revision) error {
	ref, ok := h.Docs[kind]
	sum := sha256.Sum256(s.Payload)
	if !ok || ref.Revision != r || subtle.ConstantTimeCompare(ref.Digest, sum[:]) != 1 {
		return fmt.Errorf("rules: %s revision %s is not the one the head names", kind, r)
	}
	return nil
}

func decodeAuthorities(payload []byte) (Document, ParsedAuthorities, error) {
	var a Authorities
	doc, err := decodeDocument(payload, AuthoritiesKind, &a)
	if err != nil {
		return doc, ParsedAuthorities{}, err
	}
	p, err := a.parse()
	return doc, p, err
}

// verifyRoles verifies and decodes the roles document of the cluster.
func verifyRoles(s Signed, cluster string, keys []crypto.PublicKey) (access.Policy, Revision, error) {
	payload, err := s.verify(RolesKind, keys)
	if err != nil {
		return nil, Revision{}, err
	}
	var body Roles
	doc, err := decodeDocument(payload, RolesKind, &body)
	if err != nil {
		return nil, Revision{}, err
	}
	if doc.Cluster != cluster {
		return nil, Revision{}, fmt.Errorf("rules: roles are of cluster %q, not %q", doc.Cluster, cluster)
	}
	p := access.Policy{}
	for _, r := range body.Roles {
		if _, twice := p[r.Name]; twice {
			// A deny in one of them could be overlooked.
			return nil, Revision{}, fmt.Errorf("rules: there are two roles named %q", r.Name)
		}
		p[r.Name] = r
	}
	return p, doc.Revision, nil
}

// decodeDocument decodes a document of the kind, and its body. Only a roles document may be of a version
// above 1, and its body may have no unknown fields.
func decodeDocument(payload []byte, kind Kind, body any) (Document, error) {
	var d Document
	if err := json.Unmarshal(payload, &d); err != nil {
		return d, fmt.Errorf("rules: %s: %w", kind, err)
	}
	newest, decode := Version, json.Unmarshal
	if kind == RolesKind {
		newest, decode = sessionLimitsVersion, decodeStrict
	}
	if d.Kind != kind || d.V < Version || d.V > newest {
		return d, fmt.Errorf(
			"rules: got a %s document of version %d, want %s of version %d to %d: update this program",
			d.Kind, d.V, kind, Version, newest,
		)
	}
	if err := identity.CheckCluster(d.Cluster); err != nil {
		return d, err
	}
	if err := decode(d.Body, body); err != nil {
		return d, fmt.Errorf("rules: %s: %w", kind, err)
	}
	return d, nil
}

// decodeStrict refuses unknown fields. A field of a role that this program ignored could be one that
// restricts it.
func decodeStrict(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
