package rules

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// MaxWait is how long a program goes on by its rules after it was shown a head that names documents which
	// have not come. Whoever passes the rules on may be holding them back.
	MaxWait = 30 * time.Second
	// maxAhead is how far the time of a head may be ahead of this machine's clock. The clock of auth may be
	// an hour off; a greater difference means that this machine's clock was never set.
	maxAhead = 2 * time.Hour
)

// Trust is a verified set of rules. It is immutable: Advance makes a new one.
type Trust struct {
	Cluster     string
	Pin         identity.Pin
	Authorities ParsedAuthorities
	Policy      access.Policy
	Head        Head
	set         Set      // its chain begins with the first revision of the epoch
	newest      Document // the newest authorities document
	// machineLocks and userLocks are the two parts of Policy.Locks.
	machineLocks, userLocks lockList
	verifiedBy              Revision // of the authorities by whose keys the documents in set were verified
	// heard is when this machine got the head, by its own clock; zero: it is not known.
	heard time.Time
	// waitsSince is when a newer head was shown whose documents have not all come; zero: there is none.
	waitsSince time.Time
}

// MissingError says that a head is valid and newer, but names documents that are not there.
type MissingError struct {
	Kinds  []Kind
	head   Head
	reason error // why there is no document of one of the kinds, or not the right one
}

func (e *MissingError) Error() string {
	msg := fmt.Sprintf("rules: the head names documents that have not come: %q", e.Kinds)
	if e.reason != nil {
		msg += " (" + e.reason.Error() + ")"
	}
	return msg
}

func (e *MissingError) Unwrap() error { return e.reason }

// source returns a document that may be the one that an entry of a head names. The error says why there is
// none.
type source func(kind Kind, ref Ref) (Signed, error)

// document is the source of a set.
func (s Set) document(kind Kind, _ Ref) (Signed, error) {
	doc, ok := s.Docs[kind]
	if !ok {
		return Signed{}, fmt.Errorf("there is no %s", kind)
	}
	return doc, nil
}

// Open verifies a whole set for a machine that knows nothing but the pin, and returns it as a Trust. The
// chain must have a revision that the root key signed. Each later one must be signed by a rules key of the
// one before, and the documents and the head by one of the newest. Open does not check how old the head is:
// see Usable.
func Open(pin identity.Pin, s Set) (*Trust, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t, err := openChain(pin, s.Chain)
	if err != nil {
		return nil, err
	}
	return t.withHead(s.Head, s.document)
}

// OpenAuthorities is Open for a client that gets only the chain of authorities, as users do. It returns the
// cluster's name and its newest authorities.
func OpenAuthorities(pin identity.Pin, chain []Signed) (cluster string, a ParsedAuthorities, err error) {
	t, err := openChain(pin, chain)
	if err != nil {
		return "", ParsedAuthorities{}, err
	}
	return t.Cluster, t.Authorities, nil
}

// CheckNextLink returns the revision of an authorities document that may be added to a chain: a rules key of
// the chain's newest revision signed it, or the root with a higher epoch. Any other is an error.
func CheckNextLink(pin identity.Pin, chain []Signed, link Signed) (Revision, error) {
	t, err := openChain(pin, chain)
	if err == nil {
		err = t.addLink(link)
	}
	if err != nil {
		return Revision{}, err
	}
	return t.newest.Revision, nil
}

// ReadAuthorities returns an authorities document and its body. It verifies no signature: the caller trusts
// the document, because CheckNextLink or OpenAuthorities did.
func ReadAuthorities(link Signed) (Document, Authorities, error) {
	var body Authorities
	doc, err := decodeDocument(link.Payload, AuthoritiesKind, &body)
	return doc, body, err
}

// MaySign returns an error unless the authorities document, which the caller trusts, has the key as one that
// signs documents and heads.
func MaySign(link Signed, key crypto.PublicKey) error {
	doc, parsed, err := decodeAuthorities(link.Payload)
	if err != nil {
		return err
	}
	isKey := func(k crypto.PublicKey) bool { return k.(ed25519.PublicKey).Equal(key) }
	if !slices.ContainsFunc(parsed.rules, isKey) {
		return fmt.Errorf("rules: the key is none of those in authorities %s", doc.Revision)
	}
	return nil
}

// Advance verifies a newer set and returns it as a new Trust; t does not change. It trusts what t trusts, and
// not only the pin: the set's chain need not begin at the first authorities, but whatever in it is new must
// continue the chain of t, or be signed by the root with a higher epoch. Documents that t has may be left out
// of the set.
//
// It returns an error if any part of the set is older than in t: an old set, which was once signed correctly,
// would bring back a role or authority that has been removed. If a document is missing, it returns a
// *MissingError.
func (t *Trust) Advance(s Set) (*Trust, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	next, err := t.withLinks(s.Chain)
	if err != nil {
		return nil, err
	}
	return next.withHead(s.Head, s.document)
}

// Set returns the whole verified set, to pass on or to save.
func (t *Trust) Set() Set { return t.set }

// Now returns the time to decide by. It is this machine's clock, unless the head came from the future: then
// it is the clock of auth, which goes on from the time of the head. Nobody knows which of the two is right,
// so what has ended by the later one has ended.
func (t *Trust) Now(clock time.Time) time.Time { return clock.Add(t.ahead(clock)) }

// ahead is how far the head was ahead of this machine's clock when it came.
func (t *Trust) ahead(clock time.Time) time.Duration {
	if !t.heard.IsZero() {
		clock = t.heard
	}
	return max(0, t.Head.Time.Sub(clock))
}

// Age is how long ago the head was signed; if it came from the future, how long ago it came.
func (t *Trust) Age(clock time.Time) time.Duration { return t.Now(clock).Sub(t.Head.Time) }

// MaxAge is how old the head may be: the setting rules_age.
func (t *Trust) MaxAge() time.Duration {
	return time.Duration(t.Policy.Settings.WithDefaults().RulesAge)
}

// Usable returns an error if the rules may no longer be decided by: the head is older than MaxAge, a newer
// head was shown and its documents have not come for MaxWait, or the head was signed so far in the future
// that this machine's clock cannot be right. The error is for the log of this machine.
func (t *Trust) Usable(now time.Time) error {
	age, ahead, clock := t.Age(now), t.ahead(now), now.UTC().Format(time.RFC3339)
	switch {
	case age > t.MaxAge():
		return fmt.Errorf(
			"the rules are %s old, more than %s: this machine has not heard from the cluster "+
				"(or its clock is ahead: it says %s)",
			age.Round(time.Minute), t.MaxAge(), clock)
	case ahead > maxAhead:
		return fmt.Errorf(
			"the rules were signed %s in the future: this machine's clock is behind (it says %s)",
			ahead.Round(time.Second), clock)
	case !t.waitsSince.IsZero() && now.Sub(t.waitsSince) > MaxWait:
		return fmt.Errorf(
			"the cluster has newer rules, which have not come for %s: whoever passes them on may hold them back",
			now.Sub(t.waitsSince).Round(time.Second))
	}
	return nil
}

// openChain verifies a chain of authorities and returns a Trust that has no documents and no head yet. It
// begins at the root's signature of the highest epoch: what comes before it in the chain was replaced by the
// root, and counts for nothing.
func openChain(pin identity.Pin, chain []Signed) (*Trust, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("rules: the set has no authorities")
	}
	var t *Trust
	var firstErr error
	rest := chain
	for i, link := range chain {
		opened, err := openRootLink(pin, link)
		if err != nil {
			firstErr = cmp.Or(firstErr, err)
			continue
		}
		if t == nil || opened.newest.Revision.Epoch > t.newest.Revision.Epoch {
			t, rest = opened, chain[i+1:]
		}
	}
	if t == nil {
		return nil, firstErr
	}
	for _, link := range rest {
		if err := t.addLink(link); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// openRootLink verifies a revision of the authorities that the root key signed, and returns a Trust with
// these authorities alone.
//
// The key that must have signed the document is in the document itself: the root's. That is safe because the
// root must have the pin, so its key can be no other.
func openRootLink(pin identity.Pin, link Signed) (*Trust, error) {
	doc, parsed, err := decodeAuthorities(link.Payload)
	if err != nil {
		return nil, err
	}
	if err := parsed.checkPin(pin); err != nil {
		return nil, err
	}
	if err := link.verify(AuthoritiesKind, parsed.Root.PublicKey); err != nil {
		return nil, err
	}
	return &Trust{
		Cluster:     doc.Cluster,
		Pin:         pin,
		Authorities: parsed,
		set:         Set{V: Version, Chain: []Signed{link}},
		newest:      doc,
	}, nil
}

// withLinks returns a copy of t with the links added that t does not have. If the root signed one of them
// with a higher epoch than that of t, the links before that one do not matter.
func (t *Trust) withLinks(links []Signed) (*Trust, error) {
	next := *t
	next.set.Chain = slices.Clone(t.set.Chain) // t keeps its own
	start, epoch := 0, t.newest.Revision.Epoch
	for i, link := range links {
		if e := t.epochByRoot(link); e > epoch {
			start, epoch = i, e
		}
	}
	for _, link := range links[start:] {
		if next.hasLink(link) {
			continue
		}
		if err := next.addLink(link); err != nil {
			return nil, err
		}
	}
	return &next, nil
}

// epochByRoot returns the epoch of a link that the root signed, and 0 for any other.
func (t *Trust) epochByRoot(link Signed) uint64 {
	if link.verify(AuthoritiesKind, t.Authorities.Root.PublicKey) != nil { // before it is decoded
		return 0
	}
	doc, _, err := decodeAuthorities(link.Payload)
	if err != nil {
		return 0
	}
	return doc.Revision.Epoch
}

// addLink verifies the next revision of the authorities and makes it the newest in t. It must be of the same
// cluster, and have the root with the pin. A rules key of the newest revision so far must have signed it,
// with a higher index in the same epoch: a stolen rules key cannot raise the epoch. Or the root must have
// signed it, with a higher epoch: then it replaces the chain, and no key of the chain before counts any more,
// unless the link has it too. After an error t is unchanged.
func (t *Trust) addLink(link Signed) error {
	byRoot := link.verify(AuthoritiesKind, t.Authorities.Root.PublicKey) == nil
	if !byRoot {
		if err := link.verify(AuthoritiesKind, t.Authorities.rules...); err != nil {
			return err
		}
	}
	doc, parsed, err := decodeAuthorities(link.Payload)
	if err != nil {
		return err
	}
	held, revision := t.newest.Revision, doc.Revision
	follows := held.Epoch == revision.Epoch && held.Index < revision.Index
	if byRoot {
		follows = held.Epoch < revision.Epoch
	}
	if doc.Cluster != t.Cluster || !follows {
		return fmt.Errorf("rules: authorities %s of %q do not follow %s of %q",
			revision, doc.Cluster, held, t.Cluster)
	}
	if err := parsed.checkPin(t.Pin); err != nil {
		return err
	}
	t.Authorities, t.newest = parsed, doc
	if byRoot {
		t.set.Chain = nil
	}
	t.set.Chain = append(t.set.Chain, link)
	return nil
}

// hasLink reports whether t has verified this revision of the authorities already.
func (t *Trust) hasLink(link Signed) bool { return slices.ContainsFunc(t.set.Chain, link.equal) }

// decodeAuthorities decodes an authorities document and parses its keys. It verifies no signature of the
// document.
func decodeAuthorities(payload []byte) (Document, ParsedAuthorities, error) {
	if len(payload) > maxAuthoritiesBytes {
		const format = "rules: authorities of %d bytes are larger than %d"
		return Document{}, ParsedAuthorities{}, fmt.Errorf(format, len(payload), maxAuthoritiesBytes)
	}
	var body Authorities
	doc, err := decodeDocument(payload, AuthoritiesKind, &body)
	if err != nil {
		return doc, ParsedAuthorities{}, err
	}
	parsed, err := body.parse()
	return doc, parsed, err
}

// withHead verifies a head and the documents that it names, and returns a copy of t with them. The documents
// are taken from offered, or from t where t has them already. All must be signed by a rules key of the newest
// authorities in t, which must be those that the head names.
func (t *Trust) withHead(signed Signed, offered source) (*Trust, error) {
	head, err := decodeHead(signed, t.Cluster, t.Authorities.rules)
	if err != nil {
		return nil, err
	}
	if err := head.checkFollows(t.Head, signed, t.set.Head); err != nil {
		return nil, err
	}
	docs, err := t.collect(head, offered)
	if err != nil {
		return nil, err
	}
	next := *t
	next.Head, next.verifiedBy = head, t.newest.Revision
	next.heard, next.waitsSince = time.Time{}, time.Time{}
	next.set.Head, next.set.Docs = signed, docs
	sameAuthorities := t.verifiedBy == t.newest.Revision
	if !sameAuthorities {
		next.Policy = access.Policy{Settings: access.Settings{}.WithDefaults()}
		next.machineLocks, next.userLocks = lockList{}, lockList{}
	}
	for kind, doc := range docs {
		if sameAuthorities && bytes.Equal(t.Head.Docs[kind].Digest, head.Docs[kind].Digest) {
			continue // it was verified and read, and a head comes every few seconds
		}
		if err := next.take(kind, doc, head.Docs[kind].Revision); err != nil {
			return nil, err
		}
	}
	return &next, nil
}

// collect returns the documents that the head names, without the authorities. Each is signed by a rules key
// of the newest authorities. It returns a *MissingError if some are neither in offered nor in t: so whoever
// passes a document on with a wrong signature has not passed it on.
func (t *Trust) collect(head Head, offered source) (map[Kind]Signed, error) {
	newest, ref := t.set.Chain[len(t.set.Chain)-1], head.Docs[AuthoritiesKind]
	if !t.newest.Revision.Before(ref.Revision) && !ref.names(newest.Digest()) { // it is not one to come
		return nil, notNamedError(AuthoritiesKind, t.newest.Revision)
	}
	docs := map[Kind]Signed{}
	missing := &MissingError{head: head}
	for _, kind := range slices.Sorted(maps.Keys(head.Docs)) {
		doc, err := t.documentFor(kind, head.Docs[kind], offered)
		switch {
		case err != nil:
			missing.Kinds = append(missing.Kinds, kind)
			missing.reason = cmp.Or(missing.reason, err)
		case kind != AuthoritiesKind:
			docs[kind] = doc
		}
	}
	for _, kind := range []Kind{AuthoritiesKind, RolesKind} {
		if _, ok := head.Docs[kind]; !ok {
			return nil, fmt.Errorf("rules: the head names no %s", kind)
		}
	}
	if len(missing.Kinds) > 0 {
		return nil, missing
	}
	return docs, nil
}

// documentFor returns the document that an entry of a head names. The error says why there is none.
func (t *Trust) documentFor(kind Kind, ref Ref, offered source) (Signed, error) {
	if kind == AuthoritiesKind {
		newest := t.set.Chain[len(t.set.Chain)-1]
		if !ref.names(newest.Digest()) || t.newest.Revision != ref.Revision {
			return Signed{}, notNamedError(kind, t.newest.Revision)
		}
		return newest, nil
	}
	if doc, ok := t.set.Docs[kind]; ok && bytes.Equal(t.Head.Docs[kind].Digest, ref.Digest) {
		if t.verifiedBy == t.newest.Revision {
			return doc, nil
		}
		return doc, doc.verify(kind, t.Authorities.rules...)
	}
	doc, err := offered(kind, ref)
	if err != nil {
		return Signed{}, err
	}
	digest := doc.Digest()
	if !ref.names(digest) {
		return Signed{}, fmt.Errorf("%s is not the one the head names", kind)
	}
	return doc, doc.verifyDigest(kind, digest, t.Authorities.rules...)
}

// notNamedError is the error for a document that is not the one that a head names as current. So a proxy
// cannot combine an old document with a new head, although both are signed.
func notNamedError(kind Kind, r Revision) error {
	return fmt.Errorf("rules: %s revision %s is not the one the head names", kind, r)
}

// take puts the content of a verified document into t. It does not read kinds that this program does not
// know.
func (t *Trust) take(kind Kind, s Signed, revision Revision) error {
	var doc Document
	var err error
	switch kind {
	case RolesKind:
		var body Roles
		if doc, err = decodeDocument(s.Payload, kind, &body); err == nil {
			t.Policy.Roles, err = rolesByName(body.Roles)
		}
	case SettingsKind:
		var body access.Settings
		if doc, err = decodeDocument(s.Payload, kind, &body); err == nil {
			t.Policy.Settings = body.WithDefaults()
		}
	case MachineLocksKind:
		doc, err = t.takeLocks(kind, s, &t.machineLocks)
	case UserLocksKind:
		doc, err = t.takeLocks(kind, s, &t.userLocks)
	default:
		return nil
	}
	switch {
	case err != nil:
		return err
	case doc.Cluster != t.Cluster:
		return fmt.Errorf("rules: %s are of cluster %.80q, not %q", kind, doc.Cluster, t.Cluster)
	case doc.Revision != revision:
		return notNamedError(kind, doc.Revision)
	}
	return nil
}

// takeLocks reads one of the documents of locks into its part of the locks, and puts all of them in force.
func (t *Trust) takeLocks(kind Kind, s Signed, part *lockList) (Document, error) {
	doc, next, change, err := part.read(kind, s.Payload)
	if err == nil {
		*part = next
		t.Policy.Locks = t.Policy.Locks.Change(change.gone, change.came)
	}
	return doc, err
}

// rolesByName returns the roles as decisions need them.
func rolesByName(list []access.Role) (map[string]access.Role, error) {
	roles := map[string]access.Role{}
	for _, role := range list {
		if _, duplicate := roles[role.Name]; duplicate {
			// Only one of the two would be in force, and the other may have a deny.
			return nil, fmt.Errorf("rules: there are two roles named %q", role.Name)
		}
		roles[role.Name] = role
	}
	return roles, nil
}
