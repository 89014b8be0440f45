package authorities

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// Store keeps the authorities and the change that waits for the root. state.RootChanges is one.
type Store interface {
	AuthoritiesChain(ctx context.Context) ([]state.Authorities, error)
	// RootChange returns the change that waits, and an empty one with revision 0 if there is none.
	RootChange(ctx context.Context) (state.Stored[state.RootChange], error)
	PutRootChange(
		ctx context.Context, old state.Stored[state.RootChange], next state.RootChange, events ...audit.Event,
	) error
	// CommitRootChange stores the keyring's document and the authorities together, and removes the change.
	CommitRootChange(
		ctx context.Context, c state.CommittedRootChange, now time.Time, events ...audit.Event,
	) error
}

// Service changes the authorities, which needs the signature of the root. It is safe for concurrent use.
type Service struct {
	Store   Store
	Keyring keyring.Store
	Keys    *keyring.Keyring // as this replica has opened it
	Now     func() time.Time
}

// Current returns the body of the newest authorities document and its revision.
func (s *Service) Current(ctx context.Context) (signed.Revision, signed.Authorities, error) {
	chain, err := s.Store.AuthoritiesChain(ctx)
	if err != nil || len(chain) == 0 {
		return signed.Revision{}, signed.Authorities{}, err
	}
	newest := chain[len(chain)-1]
	_, body, err := signed.ReadAuthorities(newest.Signed)
	return newest.Revision, body, err
}

// Prepare creates new keys for the named authorities and stores the request for the root, which replaces one
// that waits. With dropOld the replaced keys are trusted no more as soon as the answer is applied: that is
// for keys that were stolen. Nothing else changes before that.
func (s *Service) Prepare(
	ctx context.Context, names []string, dropOld bool, events ...audit.Event,
) (Request, error) {
	var replaced []keyring.Authority
	for _, name := range names {
		if err := keyring.CheckAuthority(name); err != nil {
			return Request{}, err
		}
		if slices.Contains(replaced, keyring.Authority(name)) {
			return Request{}, nothingToReplace.New("authorities.Prepare")
		}
		replaced = append(replaced, keyring.Authority(name))
	}
	if len(replaced) == 0 {
		return Request{}, nothingToReplace.New("authorities.Prepare")
	}
	revision, body, err := s.Current(ctx)
	if err != nil {
		return Request{}, err
	}
	stored, err := s.Keyring.Load(ctx)
	if err != nil {
		return Request{}, err
	}
	now := s.Now().UTC().Truncate(time.Second)
	keys, err := s.Keys.NewKeys(stored, replaced, now)
	if err != nil {
		return Request{}, err
	}
	request := Request{
		V:       Version,
		Cluster: s.Keys.Cluster(),
		Pin:     s.Keys.Pin(),
		Created: now,
		Epoch:   revision.Epoch + 1,
		Body:    body,
		DropOld: dropOld,
	}
	if err := request.replace(keys); err != nil {
		return Request{}, err
	}
	old, err := s.Store.RootChange(ctx)
	if err != nil {
		return Request{}, err
	}
	next := state.RootChange{}
	if next.Request, err = json.Marshal(request); err == nil {
		next.Keys, err = json.Marshal(keys)
	}
	if err != nil {
		return Request{}, err
	}
	return request, s.Store.PutRootChange(ctx, old, next, events...)
}

// replace puts new keys into the body of the request, in the place of the active ones.
func (r *Request) replace(keys *keyring.NewKeys) error {
	trusted, err := keys.Trusted()
	if err != nil {
		return err
	}
	isReplaced := func(k signed.AuthorityKey) bool {
		return slices.ContainsFunc(trusted, func(t keyring.TrustedKey) bool {
			return signed.Authority(t.Authority) == k.Authority
		})
	}
	var next []signed.AuthorityKey
	for _, k := range r.Body.Keys {
		if isReplaced(k) {
			if r.DropOld {
				continue
			}
			if k.State == signed.Active {
				k.State = signed.Previous
			}
		}
		next = append(next, k)
	}
	for _, k := range trusted {
		if signed.Authority(k.Authority) == signed.ServiceX509 {
			public, err := x509.MarshalPKIXPublicKey(k.Public)
			if err != nil {
				return err
			}
			r.Service = &ServiceKey{Generation: k.Generation, Public: public}
			next = append(next, signed.AuthorityKey{
				Authority:  signed.ServiceX509,
				Generation: k.Generation,
				State:      signed.Active,
			})
			continue
		}
		entry, err := entryOf(k)
		if err != nil {
			return err
		}
		next = append(next, entry)
	}
	r.Body.Keys = next
	return nil
}

// Pending returns the request that waits for the root, and false if there is none.
func (s *Service) Pending(ctx context.Context) (Request, bool, error) {
	change, err := s.Store.RootChange(ctx)
	if err != nil || change.Revision == 0 {
		return Request{}, false, err
	}
	r, err := ReadRequest(change.Value.Request)
	return r, err == nil, err
}

// Apply makes the keys of the request that waits those that sign, as the root has answered. The answer must
// be for exactly that request: no other key becomes trusted. Auth signs with the new keys after a restart. An
// answer that does not fit is fault Invalid, and one without a request fault Conflict.
func (s *Service) Apply(ctx context.Context, a Answer, events ...audit.Event) (signed.Revision, error) {
	change, err := s.Store.RootChange(ctx)
	if err != nil {
		return signed.Revision{}, err
	}
	if change.Revision == 0 {
		return signed.Revision{}, noRequest.New("authorities.Apply")
	}
	request, err := ReadRequest(change.Value.Request)
	if err != nil {
		return signed.Revision{}, err
	}
	keys, err := keyring.ReadNewKeys(change.Value.Keys)
	if err != nil {
		return signed.Revision{}, err
	}
	chain, err := s.Store.AuthoritiesChain(ctx)
	if err != nil {
		return signed.Revision{}, err
	}
	links := make([]signed.Signed, len(chain))
	for i, d := range chain {
		links[i] = d.Signed
	}
	invalid := func(err error) error {
		return answerInvalid.Wrap(err, "authorities.Apply", fault.Args{"why": err.Error()})
	}
	revision, err := signed.CheckNextLink(s.Keys.Pin(), links, a.Link)
	if err != nil {
		return signed.Revision{}, invalid(err)
	}
	service, err := request.checkAnswered(a.Link)
	if err != nil {
		return signed.Revision{}, invalid(err)
	}
	old, err := s.Keyring.Load(ctx)
	if err != nil {
		return signed.Revision{}, err
	}
	next, err := s.Keys.Replace(keyring.Replacement{
		Old:     old,
		New:     keys,
		DropOld: request.DropOld,
		Service: service,
	})
	if err != nil {
		return signed.Revision{}, err
	}
	return revision, s.Store.CommitRootChange(ctx, state.CommittedRootChange{
		Change:      change,
		OldKeyring:  old,
		NewKeyring:  next,
		Chain:       chain,
		Authorities: state.Authorities{Revision: revision, Signed: a.Link},
	}, s.Now(), events...)
}

// SignHere answers a request with the root key of a cluster that keeps it in the store. Others report false.
func (s *Service) SignHere(r Request) (Answer, bool, error) {
	root, kept := s.Keys.RootKey()
	if !kept {
		return Answer{}, false, nil
	}
	a, err := Sign(root, r, s.Now())
	return a, err == nil, err
}

// checkAnswered returns an error unless the link, which is verified, has exactly the body that the request
// asks for. It returns the certificate of a new service authority, and nil if there is none.
func (r Request) checkAnswered(link signed.Signed) (*x509.Certificate, error) {
	doc, body, err := signed.ReadAuthorities(link)
	if err != nil {
		return nil, err
	}
	if doc.Revision.Epoch != r.Epoch || len(body.Keys) != len(r.Body.Keys) {
		return nil, errors.New("it is of another request")
	}
	var service *x509.Certificate
	for i, want := range r.Body.Keys {
		got := body.Keys[i]
		if isOpen(want) {
			if service, err = r.checkService(got); err != nil {
				return nil, err
			}
			want.Key, want.ID = got.Key, got.ID
		}
		same := got.Authority == want.Authority && got.Generation == want.Generation &&
			got.State == want.State && got.ID == want.ID && bytes.Equal(got.Key, want.Key)
		if !same {
			return nil, fmt.Errorf("the key of %s, generation %d, is not the one of the request",
				got.Authority, got.Generation)
		}
	}
	return service, nil
}

// checkService returns the certificate in the entry of a new service authority. It must be of the key in the
// request.
func (r Request) checkService(k signed.AuthorityKey) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(k.Key)
	if err != nil {
		return nil, err
	}
	if r.Service == nil || !bytes.Equal(cert.RawSubjectPublicKeyInfo, r.Service.Public) {
		return nil, errors.New("the certificate of service-x509 is of another key")
	}
	return cert, nil
}
