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

// MaxAge is how old a head may be. A node whose head is older refuses every session: it might have missed
// that a user lost a role (design section 6, max_rules_age).
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

// Open verifies a whole set for a machine that knows nothing but the pin, and returns it as a Trust. The
// chain must begin with the first authorities, which the root key signed. Each further revision must be
// signed by a rules key of the one before, and roles and head by one of the newest. Open does not check how
// old the head is: see Usable.
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

// OpenAuthorities is Open for a client that gets only the chain of authorities, as users do. It returns the
// cluster's name and its newest authorities.
func OpenAuthorities(pin identity.Pin, chain []Signed) (cluster string, a ParsedAuthorities, err error) {
	t, err := verifyChain(pin, chain)
	if err != nil {
		return "", ParsedAuthorities{}, err
	}
	return t.Cluster, t.Authorities, nil
}

// verifyChain verifies a chain of authorities from the first to the newest, and returns a Trust that has no
// roles and no head yet.
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

// Advance verifies a newer set and returns it as a new Trust; t does not change. It trusts what t trusts, and
// not only the pin: the set's chain need not begin at the first authorities, but whatever in it is new must
// continue the chain of t.
//
// It returns an error if any part of the set is older than in t: an old set, which was once signed correctly,
// would bring back a role or authority that has been removed.
func (t *Trust) Advance(s Set) (*Trust, error) {
	next := *t
	next.set.Chain = append([]Signed(nil), t.set.Chain...) // t keeps its own
	for _, link := range s.Chain {
		if next.hasLink(link) {
			continue
		}
		if err := next.addAuthorities(link); err != nil {
			return nil, err
		}
	}
	if err := next.setHeadAndRoles(s); err != nil {
		return nil, err
	}
	if next.Head.Epoch < t.Head.Epoch || next.Head.Time.Before(t.Head.Time) {
		return nil, fmt.Errorf(
			"rules: head of %s is older than the one of %s already held",
			next.Head.Time.UTC().Format(time.RFC3339), t.Head.Time.UTC().Format(time.RFC3339),
		)
	}
	for kind, old := range t.Head.Docs {
		if ref, ok := next.Head.Docs[kind]; !ok || ref.Revision.Before(old.Revision) {
			return nil, fmt.Errorf("rules: %s would go back from revision %s", kind, old.Revision)
		}
	}
	return &next, nil
}

// AdvanceHead is Advance for a newer head that comes without documents, because they have not changed. It
// returns an error if the head names other documents than those of t.
func (t *Trust) AdvanceHead(head Signed) (*Trust, error) {
	return t.Advance(Set{Roles: t.set.Roles, Head: head})
}

// Set returns the whole verified set, to pass on or to save.
func (t *Trust) Set() Set { return t.set }

// Age is how long ago the head was signed. It is negative when this machine's clock is behind the cluster's.
func (t *Trust) Age(now time.Time) time.Duration { return now.Sub(t.Head.Time) }

// Usable returns an error if the head is older than MaxAge, or signed more than identity.Skew in the future:
// then this machine's clock is behind, and the age of the rules is not known. The error is for the log of
// this machine.
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

// verifyFirstLink verifies the first revision of the authorities, and returns a Trust with these authorities
// alone.
//
// The key that must have signed the document is in the document itself: the root's. That is safe because the
// root must have the pin, so its key can be no other.
func verifyFirstLink(pin identity.Pin, link Signed) (*Trust, error) {
	doc, authorities, err := decodeAuthorities(link.Payload)
	if err != nil {
		return nil, err
	}
	if err := authorities.checkPin(pin); err != nil {
		return nil, err
	}
	rootKey := []crypto.PublicKey{authorities.Root.PublicKey}
	if _, err := link.verify(AuthoritiesKind, rootKey); err != nil {
		return nil, err
	}
	return &Trust{
		Cluster:           doc.Cluster,
		Pin:               pin,
		Authorities:       authorities,
		set:               Set{Chain: []Signed{link}},
		newestAuthorities: doc,
	}, nil
}

// addAuthorities verifies the next revision of the authorities and makes it the newest in t. It must be
// signed by a rules key of the newest so far, be of the same cluster, have a higher revision, and still have
// the root with the pin. After an error t is unchanged.
func (t *Trust) addAuthorities(link Signed) error {
	if _, err := link.verify(AuthoritiesKind, t.Authorities.rules); err != nil {
		return err
	}
	doc, authorities, err := decodeAuthorities(link.Payload)
	if err != nil {
		return err
	}
	if doc.Cluster != t.Cluster || !t.newestAuthorities.Revision.Before(doc.Revision) {
		return fmt.Errorf(
			"rules: authorities %s of %q do not follow %s of %q",
			doc.Revision, doc.Cluster, t.newestAuthorities.Revision, t.Cluster,
		)
	}
	if err := authorities.checkPin(t.Pin); err != nil {
		return err
	}
	t.Authorities, t.newestAuthorities = authorities, doc
	t.set.Chain = append(t.set.Chain, link)
	return nil
}

// setHeadAndRoles verifies the head and roles of s and puts them into t. Both must be signed by a rules key
// of the newest authorities in t. The head must name these authorities and these roles. After an error t is
// unchanged.
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
	newest := t.set.Chain[len(t.set.Chain)-1]
	if err := head.checkRef(AuthoritiesKind, newest, t.newestAuthorities.Revision); err != nil {
		return err
	}
	policy, rolesRevision, err := verifyRoles(s.Roles, t.Cluster, t.Authorities.rules)
	if err != nil {
		return err
	}
	if err := head.checkRef(RolesKind, s.Roles, rolesRevision); err != nil {
		return err
	}
	t.Head, t.Policy, t.set.Roles, t.set.Head = head, policy, s.Roles, s.Head
	return nil
}

// hasLink reports whether t has verified this revision of the authorities already.
func (t *Trust) hasLink(link Signed) bool {
	for _, have := range t.set.Chain {
		if have.equal(link) {
			return true
		}
	}
	return false
}

// checkRef returns an error unless the head names the document s, of the kind and revision, as current. So a
// proxy cannot combine an old document with a new head, although both are signed.
func (h Head) checkRef(kind Kind, s Signed, revision Revision) error {
	ref, ok := h.Docs[kind]
	sum := sha256.Sum256(s.Payload)
	if !ok || ref.Revision != revision || subtle.ConstantTimeCompare(ref.Digest, sum[:]) != 1 {
		return fmt.Errorf("rules: %s revision %s is not the one the head names", kind, revision)
	}
	return nil
}

// decodeAuthorities decodes an authorities document and parses its keys. It verifies no signature of the
// document.
func decodeAuthorities(payload []byte) (Document, ParsedAuthorities, error) {
	var body Authorities
	doc, err := decodeDocument(payload, AuthoritiesKind, &body)
	if err != nil {
		return doc, ParsedAuthorities{}, err
	}
	parsed, err := body.parse()
	return doc, parsed, err
}

// verifyRoles verifies that one of keys signed the roles document and that it is of the cluster. It returns
// the roles by name, and the document's revision.
func verifyRoles(s Signed, cluster string, keys []crypto.PublicKey) (access.Policy, Revision, error) {
	payload, err := s.verify(RolesKind, keys)
	if err != nil {
		return access.Policy{}, Revision{}, err
	}
	var body Roles
	doc, err := decodeDocument(payload, RolesKind, &body)
	if err != nil {
		return access.Policy{}, Revision{}, err
	}
	if doc.Cluster != cluster {
		err := fmt.Errorf("rules: roles are of cluster %q, not %q", doc.Cluster, cluster)
		return access.Policy{}, Revision{}, err
	}
	policy := access.Policy{Roles: map[string]access.Role{}}
	for _, role := range body.Roles {
		if _, duplicate := policy.Roles[role.Name]; duplicate {
			// Only one of the two would be in force, and the other may have a deny.
			return access.Policy{}, Revision{}, fmt.Errorf("rules: there are two roles named %q", role.Name)
		}
		policy.Roles[role.Name] = role
	}
	return policy, doc.Revision, nil
}

// decodeDocument decodes the payload of a document and returns it. It decodes the document's body into the
// value that body points to. It returns an error for a document of another kind, or of a version that this
// program does not know: an authorities document must be of version 1, a roles document of 1 to
// sessionLimitsVersion.
func decodeDocument(payload []byte, kind Kind, body any) (Document, error) {
	var doc Document
	if err := json.Unmarshal(payload, &doc); err != nil {
		return doc, fmt.Errorf("rules: %s: %w", kind, err)
	}
	newestVersion, decodeBody := Version, json.Unmarshal
	if kind == RolesKind {
		newestVersion, decodeBody = sessionLimitsVersion, decodeStrict
	}
	if doc.Kind != kind || doc.V < Version || doc.V > newestVersion {
		return doc, fmt.Errorf(
			"rules: got a %s document of version %d, want %s of version %d to %d: update this program",
			doc.Kind, doc.V, kind, Version, newestVersion,
		)
	}
	if err := identity.CheckCluster(doc.Cluster); err != nil {
		return doc, err
	}
	if err := decodeBody(doc.Body, body); err != nil {
		return doc, fmt.Errorf("rules: %s: %w", kind, err)
	}
	return doc, nil
}

// decodeStrict is json.Unmarshal that returns an error for an unknown field. In a role, such a field may be a
// restriction that a newer program enforces and this one would not.
func decodeStrict(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
