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
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
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
	V       int         `json:"v"` // Version of the release that wrote it
	Cluster string      `json:"cluster"`
	Seal    string      `json:"seal"` // key URI of the seal, to tell an operator which key file to look for
	Created time.Time   `json:"born"` // the JSON name is older than the field's, and stays
	Keys    []storedKey `json:"keys"`
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
}

// sealName is the name under which a private key is sealed. It binds the sealed key to its place in the
// document: copied to another cluster, authority or generation, it cannot be opened.
func sealName(cluster string, a Authority, generation int) string {
	return fmt.Sprintf("threshold/keyring/1/%s/%s/%d", cluster, a, generation)
}

// damagedFault is the fault of a document that cannot be used: Internal, with the message "the stored keyring
// is damaged: " and then what.
func damagedFault(what string, err error) error {
	return fault.Wrap(
		err,
		fault.Internal,
		"keyring.Open",
		"the stored keyring is damaged: "+what,
		"restore the auth store from a backup",
	)
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
	if doc.V > Version {
		return nil, fault.New(
			fault.Invalid,
			"keyring.Open",
			fmt.Sprintf("the stored keyring is of version %d, this program reads up to %d", doc.V, Version),
			"start the newer release of threshold that wrote it",
		)
	}
	if doc.V < 1 {
		return nil, damagedFault("no version", errors.New("v is missing"))
	}
	if err := doc.check(); err != nil {
		return nil, damagedFault("incomplete", err)
	}
	return &doc, nil
}

// check returns an error unless the document has a valid cluster name, one root key and exactly one active
// key for each authority, and no two keys of the same authority and generation.
func (d *document) check() error {
	if err := identity.CheckCluster(d.Cluster); err != nil {
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

// open unseals one key and returns it as an entry of the keyring. It checks that the private key, the public
// key and the certificate belong together. A root key that is kept offline has no sealed part: the entry's
// key is then nil.
func (s storedKey) open(cluster string, seal Seal) (*entry, error) {
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
	if opened.key, err = s.unseal(cluster, seal); err != nil {
		return nil, err
	}
	return opened, nil
}

// unseal decrypts the private key and checks that it belongs to the public key beside it. Without this check,
// whoever can write to the store could exchange the public key, and verifiers would trust a foreign key.
func (s storedKey) unseal(cluster string, seal Seal) (*secret, error) {
	plain, err := seal.Open(sealName(cluster, s.Authority, s.Generation), s.Sealed)
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
