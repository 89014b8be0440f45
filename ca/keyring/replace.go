package keyring

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/wire"
)

// NewKeys are keys of authorities that nobody trusts yet. As JSON, their private parts are sealed.
type NewKeys struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Keys     []storedKey   `json:"keys"`
}

// CheckAuthority returns fault Invalid for a name that is none of the five authorities.
func CheckAuthority(name string) error {
	if !slices.Contains(authorities, Authority(name)) {
		return authorityNone.New("keyring", fault.Args{"name": name})
	}
	return nil
}

// NewKeys creates a key more for each of the named authorities. Replace puts them in the place of those that
// sign now. That of service-x509 has no certificate: the root signs it. stored is the document of the keyring
// as it is stored: its keys were replaced, perhaps, since this keyring was opened.
func (k *Keyring) NewKeys(stored []byte, names []Authority, now time.Time) (*NewKeys, error) {
	old, err := decode(stored)
	if err != nil {
		return nil, err
	}
	doc := &document{Cluster: k.cluster}
	g := generator{doc: doc, secrets: k.secrets, root: &RootKey{cert: k.root.cert}, now: now.UTC()}
	for _, name := range names {
		if err := CheckAuthority(string(name)); err != nil {
			return nil, err
		}
		generation := 0
		for _, key := range old.Keys {
			if key.Authority == name {
				generation = max(generation, key.Generation)
			}
		}
		if err := g.addAuthority(authorityName{name, generation + 1}, Active); err != nil {
			return nil, err
		}
	}
	return &NewKeys{V: Version, Keys: doc.Keys}, nil
}

// ReadNewKeys reads the JSON of new keys. Those of a release that this one cannot follow are fault Invalid.
func ReadNewKeys(raw []byte) (*NewKeys, error) {
	var n NewKeys
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, damagedFault("the new keys are unreadable", err)
	}
	return &n, wire.Check("the new keys", n.V, Version, n.Critical, wire.Fields(NewKeys{})...)
}

// Trusted returns the public side of the keys. The one of service-x509 has no certificate.
func (n *NewKeys) Trusted() ([]TrustedKey, error) {
	var out []TrustedKey
	for _, stored := range n.Keys {
		trusted := TrustedKey{Authority: stored.Authority, Generation: stored.Generation, State: stored.State}
		var err error
		if trusted.Public, err = x509.ParsePKIXPublicKey(stored.Public); err != nil {
			return nil, damagedFault("the new keys are unreadable", err)
		}
		if len(stored.Cert) > 0 {
			if trusted.Cert, err = x509.ParseCertificate(stored.Cert); err != nil {
				return nil, damagedFault("the new keys are unreadable", err)
			}
		}
		out = append(out, trusted)
	}
	return out, nil
}

// Replacement says how a document of the keyring changes.
type Replacement struct {
	Old     []byte // the document as it is stored
	New     *NewKeys
	DropOld bool              // the replaced keys are trusted no more
	Service *x509.Certificate // of the new key of service-x509; nil if it is not replaced
}

// Replace returns the document of the keyring after a replacement. The keys that are replaced stay, as
// previous ones, unless they are dropped. What a newer release has written into the document stays too. The
// result is checked as Open checks it.
func (k *Keyring) Replace(r Replacement) ([]byte, error) {
	var whole map[string]json.RawMessage
	var keys []map[string]json.RawMessage
	err := errors.Join(json.Unmarshal(r.Old, &whole), json.Unmarshal(whole["keys"], &keys))
	if err != nil {
		return nil, damagedFault("unreadable", err)
	}
	var next []any
	for _, stored := range keys {
		kept, err := r.keep(stored)
		if err != nil {
			return nil, err
		}
		if kept {
			next = append(next, stored)
		}
	}
	for _, stored := range r.New.Keys {
		if stored.Authority == serviceX509 && r.Service != nil {
			stored.Cert = r.Service.Raw
		}
		next = append(next, stored)
	}
	if whole["keys"], err = json.Marshal(next); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	return raw, k.checkOpens(raw)
}

// keep reports whether a key of the old document stays. An active one that is replaced becomes a previous
// one.
func (r Replacement) keep(stored map[string]json.RawMessage) (bool, error) {
	var authority Authority
	var state State
	err := errors.Join(
		json.Unmarshal(stored["authority"], &authority),
		json.Unmarshal(stored["state"], &state),
	)
	if err != nil {
		return false, damagedFault("unreadable", err)
	}
	replaces := func(k storedKey) bool { return k.Authority == authority }
	if !slices.ContainsFunc(r.New.Keys, replaces) {
		return true, nil
	}
	if state == Active {
		stored["state"], err = json.Marshal(Previous)
	}
	return !r.DropOld, err
}

// checkOpens returns an error unless the document opens with the secrets of k, and is of the same root.
func (k *Keyring) checkOpens(raw []byte) error {
	doc, err := decode(raw)
	if err != nil {
		return err
	}
	opened, err := doc.openKeys(k.secrets)
	if err != nil {
		return err
	}
	opened.wipeKeys()
	if !bytes.Equal(opened.root.cert.Raw, k.root.cert.Raw) {
		return damagedFault("it is of another root", errors.New("the certificates differ"))
	}
	return nil
}
