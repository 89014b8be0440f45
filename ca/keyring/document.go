package keyring

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version of the document that this code writes, and the newest that it reads.
const Version = 1

// MaxBytes bounds the document. Five authorities and a root take 5 kB, and three times that while all of them
// are rotated at once.
const MaxBytes = 256 << 10

// Authority names one of the cluster's signing keys. Names are only added, never changed: they are in the
// store and in the associated data of sealed keys.
type Authority string

const (
	root        Authority = "root"
	userSSH     Authority = "user-ssh"
	hostSSH     Authority = "host-ssh"
	userX509    Authority = "user-x509"
	serviceX509 Authority = "service-x509"
	rules       Authority = "rules"
)

// authorities are the five besides the root, in the order in which they are created.
var authorities = []Authority{userSSH, hostSSH, userX509, serviceX509, rules}

// State says what a key is used for during a rotation. States are only added, never changed.
type State string

const (
	Active   State = "active"   // signs, and is trusted
	Next     State = "next"     // is trusted already, and will sign
	Previous State = "previous" // is still trusted, and signs no more
)

// rank orders the keys of an authority: active first. An unknown state has rank -1.
func (s State) rank() int {
	switch s {
	case Active:
		return 0
	case Next:
		return 1
	case Previous:
		return 2
	}
	return -1
}

// document is what the Store keeps, as JSON.
type document struct {
	V        int             `json:"v"` // Version of the release that wrote it
	Critical wire.Critical   `json:"critical,omitempty"`
	Cluster  string          `json:"cluster"`
	Created  time.Time       `json:"created"`
	DataKeys []storedDataKey `json:"data_keys"`
	Keys     []storedKey     `json:"keys"`
}

// storedKey is one key of the document, with its private part sealed.
type storedKey struct {
	Authority  Authority `json:"authority"`
	Generation int       `json:"generation"` // 1 at first, one more with each rotation
	State      State     `json:"state"`
	Created    time.Time `json:"created"`
	Public     []byte    `json:"public"`           // SubjectPublicKeyInfo, DER
	Cert       []byte    `json:"cert,omitempty"`   // root, user-x509, service-x509: DER
	Sealed     []byte    `json:"sealed,omitempty"` // PKCS #8, sealed; absent only for an offline root
	// Critical says that a program which does not know the authority must not open the document. Others
	// ignore a key of an authority that they do not know.
	Critical bool `json:"critical,omitempty"`
}

// keyName is the name under which a private key is sealed. It binds the sealed key to its place in the
// document and to the root: copied to another authority or generation, or beside another root, it cannot be
// opened. The last is needed because nothing else protects the root's certificate when its key is offline.
func keyName(pin identity.Pin, a Authority, generation int) string {
	return fmt.Sprintf("keyring/%s/%s/%d", pin, a, generation)
}

// damagedFault is the fault of a document that cannot be used.
func damagedFault(what string, err error) error {
	return keyringDamaged.Wrap(err, opOpen, fault.Args{"what": what})
}

// decode decodes a document and checks that it is complete. It does not unseal the keys. A document of a
// newer release is fault Invalid, a damaged one fault Internal.
func decode(raw []byte) (*document, error) {
	if len(raw) > MaxBytes {
		return nil, damagedFault("too large", fmt.Errorf("%d bytes, more than %d", len(raw), MaxBytes))
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, damagedFault("unreadable", err)
	}
	if doc.V < 1 {
		return nil, damagedFault("no version", errors.New("v is missing"))
	}
	err := wire.Check("the stored keyring", doc.V, Version, doc.Critical, wire.Fields(document{})...)
	if err != nil {
		return nil, err
	}
	if err := doc.dropUnknown(); err != nil {
		return nil, err
	}
	if err := doc.check(); err != nil {
		return nil, damagedFault("incomplete", err)
	}
	return &doc, nil
}

// dropUnknown removes the keys of authorities that this program does not know: a newer release has added
// them, and they are not needed for what this one signs. A critical one is fault Invalid.
func (d *document) dropUnknown() error {
	known := d.Keys[:0]
	for _, stored := range d.Keys {
		switch {
		case stored.Authority == root || slices.Contains(authorities, stored.Authority):
			known = append(known, stored)
		case stored.Critical:
			return authorityUnknown.New(opOpen, fault.Args{"authority": stored.Authority})
		}
	}
	d.Keys = known
	return nil
}

// check returns an error unless the document has a valid cluster name, a data key, one root key and exactly
// one active key for each authority, and no two keys of the same authority and generation.
func (d *document) check() error {
	if err := identity.CheckCluster(d.Cluster); err != nil {
		return err
	}
	if err := d.checkDataKeys(); err != nil {
		return err
	}
	type keyID struct {
		authority  Authority
		generation int
	}
	active, seen := map[Authority]int{}, map[keyID]bool{}
	for _, stored := range d.Keys {
		id := keyID{stored.Authority, stored.Generation}
		if stored.Generation < 1 || seen[id] {
			return fmt.Errorf(
				"%s: generation %d is not unique or not positive", stored.Authority, stored.Generation)
		}
		unknownState := stored.State.rank() < 0
		inactiveRoot := stored.Authority == root && stored.State != Active // the root is never rotated
		if unknownState || inactiveRoot {
			return fmt.Errorf("%s: state %q", stored.Authority, stored.State)
		}
		if stored.State == Active {
			active[stored.Authority]++
		}
		seen[id] = true
	}
	for _, a := range append([]Authority{root}, authorities...) {
		if active[a] != 1 {
			return fmt.Errorf("%s: %d active keys, want 1", a, active[a])
		}
	}
	return nil
}

// checkDataKeys returns an error unless there is a data key, and each generation once.
func (d *document) checkDataKeys() error {
	seen := map[uint32]bool{}
	for _, k := range d.DataKeys {
		if k.Generation < 1 || seen[k.Generation] {
			return fmt.Errorf("data key: generation %d is not unique or not positive", k.Generation)
		}
		seen[k.Generation] = true
	}
	if len(seen) == 0 {
		return errors.New("there is no data key")
	}
	return nil
}

// open unseals one key and returns it as an entry of the keyring. It checks that the private key, the public
// key and the certificate belong together. A root key that is kept offline has no sealed part: the entry's
// key is then nil.
func (s storedKey) open(pin identity.Pin, secrets *Secrets) (*entry, error) {
	opened := &entry{authority: s.Authority, generation: s.Generation, state: s.State}
	var err error
	if opened.public, err = x509.ParsePKIXPublicKey(s.Public); err != nil {
		return nil, damagedFault(string(s.Authority)+" has no readable public key", err)
	}
	if !s.Authority.fits(opened.public) {
		what := string(s.Authority) + " has a key of a wrong type"
		return nil, damagedFault(what, fmt.Errorf("%T", opened.public))
	}
	if s.Authority.hasCert() {
		if opened.cert, err = x509.ParseCertificate(s.Cert); err != nil {
			return nil, damagedFault(string(s.Authority)+" has no readable certificate", err)
		}
		if !bytes.Equal(opened.cert.RawSubjectPublicKeyInfo, s.Public) {
			err := errors.New("public keys differ")
			return nil, damagedFault(string(s.Authority)+"'s certificate is of another key", err)
		}
	}
	keptOffline := s.Authority == root && len(s.Sealed) == 0
	if keptOffline {
		return opened, nil
	}
	if opened.key, err = s.unseal(pin, secrets); err != nil {
		return nil, err
	}
	return opened, nil
}

// unseal decrypts the private key and checks that it belongs to the public key beside it. Without this check,
// whoever can write to the store could exchange the public key, and verifiers would trust a foreign key.
func (s storedKey) unseal(pin identity.Pin, secrets *Secrets) (*secret, error) {
	plain, err := secrets.Open(keyName(pin, s.Authority, s.Generation), s.Sealed)
	if err != nil {
		return nil, fmt.Errorf("open the %s key: %w", s.Authority, err)
	}
	defer clear(plain)
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		err := errors.New("not PKCS #8") // instead of the cause, which could quote bytes of the key
		return nil, damagedFault(string(s.Authority)+" has no readable private key", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, damagedFault(string(s.Authority)+" has a key that cannot sign", fmt.Errorf("%T", key))
	}
	pub, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil || !bytes.Equal(pub, s.Public) {
		what := string(s.Authority) + "'s private and public keys differ"
		return nil, damagedFault(what, errors.New("mismatch"))
	}
	return newSecret(signer), nil
}

// hasCert reports whether the authority signs X.509 and so has a certificate itself.
func (a Authority) hasCert() bool { return a == root || a == userX509 || a == serviceX509 }

// fits reports whether a key has the authority's type: P-256 for the root and the X.509 authorities, Ed25519
// for the others.
func (a Authority) fits(pub crypto.PublicKey) bool {
	if a.hasCert() {
		k, ok := pub.(*ecdsa.PublicKey)
		return ok && k.Curve == elliptic.P256()
	}
	_, ok := pub.(ed25519.PublicKey)
	return ok
}
