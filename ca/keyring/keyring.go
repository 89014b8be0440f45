// Package keyring answers: which keys sign now?
//
// A cluster has one root and five authorities, each with a key of its own: user-ssh, host-ssh, user-x509,
// service-x509 and rules. They are generated together and kept as one versioned document in a Store. Every
// private key in the document is sealed: encrypted with the cluster's data key (Secrets), which is stored
// there too, wrapped by a seal key that the Store never sees (Seal). To open, or unseal, is to decrypt it
// again. Open checks each private key against the public key and the certificate beside it. So whoever can
// write to the store but does not have the seal key cannot add a key that verifiers would trust.
//
// The root's private key is not in the document (RootKey), unless the cluster was created that way.
//
// Only ca and the wiring of auth call it. A Keyring does not change after it was opened, and is safe for
// concurrent use: after a rotation, auth must be restarted to use the new keys.
package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Store keeps the keyring's document as bytes. It must not lose it, but need not keep it secret.
type Store interface {
	// Load returns the document, or fault.NotFound when the cluster has none yet.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces old by new, or creates new if old is nil. It returns fault.Conflict when the stored
	// document is not old.
	Save(ctx context.Context, old, new []byte) error
}

// Keyring holds a cluster's keys, unsealed in memory.
type Keyring struct {
	cluster string
	secrets *Secrets
	root    *entry
	sets    map[Authority][]*entry // by authority, without the root: its keys, the active one first
	userSSH ssh.Signer
	hostSSH ssh.Signer
}

// entry is one key of one authority, unsealed in memory.
type entry struct {
	authority  Authority
	generation int
	state      State
	public     crypto.PublicKey
	cert       *x509.Certificate // root, user-x509 and service-x509
	key        *secret           // nil for a root that is kept offline
}

// Open loads the document from the store, unseals every private key in it, and returns the keyring. A store
// without a document is fault NotFound; a seal with another key, or a document of a newer release, is fault
// Invalid; a document that is damaged is fault Internal.
func Open(ctx context.Context, store Store, seal Seal) (*Keyring, error) {
	raw, err := store.Load(ctx)
	if fault.Is(err, fault.NotFound) {
		return nil, keyringMissing.Wrap(err, opOpen)
	}
	if err != nil {
		return nil, fmt.Errorf("load the keyring: %w", err)
	}
	doc, err := decode(raw)
	if err != nil {
		return nil, err
	}
	return doc.open(seal)
}

// open unseals every private key of the document and returns the keyring. It checks each key (storedKey.open)
// and that the certificates belong together (checkTrees). After an error nothing that it has unsealed stays
// in memory.
func (d *document) open(seal Seal) (*Keyring, error) {
	secrets, err := d.openSecrets(seal)
	if err != nil {
		return nil, err
	}
	keys, err := d.openKeys(secrets)
	if err != nil {
		secrets.Wipe()
	}
	return keys, err
}

// openKeys is open for secrets that are open already, which it does not wipe.
func (d *document) openKeys(secrets *Secrets) (_ *Keyring, err error) {
	keys := &Keyring{cluster: d.Cluster, secrets: secrets, sets: map[Authority][]*entry{}}
	defer func() {
		if err != nil {
			keys.wipeKeys()
		}
	}()
	pin, err := d.pin()
	if err != nil {
		return nil, err
	}
	for _, stored := range d.Keys {
		opened, err := stored.open(pin, secrets)
		if err != nil {
			return nil, err
		}
		if stored.Authority == root {
			keys.root = opened
			continue
		}
		keys.sets[stored.Authority] = append(keys.sets[stored.Authority], opened)
	}
	for _, set := range keys.sets { // the active key becomes the first
		slices.SortStableFunc(set, func(a, b *entry) int { return a.state.rank() - b.state.rank() })
	}
	if err := keys.checkTrees(); err != nil {
		return nil, damagedFault("the certificates of its authorities do not belong together", err)
	}
	if err := keys.makeSSH(); err != nil {
		return nil, err
	}
	return keys, nil
}

// pin returns the pin of the root's certificate.
func (d *document) pin() (identity.Pin, error) {
	for _, stored := range d.Keys {
		if stored.Authority == root {
			cert, err := x509.ParseCertificate(stored.Cert)
			if err != nil {
				return identity.Pin{}, damagedFault("root has no readable certificate", err)
			}
			return identity.PinOf(cert), nil
		}
	}
	return identity.Pin{}, damagedFault("incomplete", errors.New("there is no root"))
}

// checkTrees returns an error unless the certificates of the root and of user-x509 are self-signed, the root
// has signed those of service-x509, and all are certificates of authorities. No authority may have the root's
// key: it would then sign as the root.
func (k *Keyring) checkTrees() error {
	if err := k.root.cert.CheckSignatureFrom(k.root.cert); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, user := range k.sets[userX509] {
		if err := user.cert.CheckSignatureFrom(user.cert); err != nil {
			return fmt.Errorf("%s: %w", user.authority, err)
		}
	}
	for _, service := range k.sets[serviceX509] {
		if err := service.cert.CheckSignatureFrom(k.root.cert); err != nil {
			return fmt.Errorf("%s: %w", service.authority, err)
		}
	}
	for _, e := range slices.Concat(k.sets[userX509], k.sets[serviceX509]) {
		hasRootKey := bytes.Equal(e.cert.RawSubjectPublicKeyInfo, k.root.cert.RawSubjectPublicKeyInfo)
		if !e.cert.IsCA || hasRootKey {
			return fmt.Errorf("%s: it is not an authority, or has the root's key", e.authority)
		}
	}
	return nil
}

// makeSSH sets the signers of SSH certificates from the active keys.
func (k *Keyring) makeSSH() (err error) {
	if k.userSSH, err = ssh.NewSignerFromSigner(k.active(userSSH).key); err != nil {
		return fmt.Errorf("%s signer: %w", userSSH, err)
	}
	if k.hostSSH, err = ssh.NewSignerFromSigner(k.active(hostSSH).key); err != nil {
		return fmt.Errorf("%s signer: %w", hostSSH, err)
	}
	return nil
}

// active is the entry that signs. decode has checked that there is exactly one.
func (k *Keyring) active(a Authority) *entry { return k.sets[a][0] }

// Secrets seals and opens everything else that the cluster keeps secret. It works until Wipe.
func (k *Keyring) Secrets() *Secrets { return k.secrets }

// Cluster is the name of the cluster that the keys were generated for.
func (k *Keyring) Cluster() string { return k.cluster }

// Pin is the SHA-256 of the cluster root's public key.
func (k *Keyring) Pin() identity.Pin { return identity.PinOf(k.root.cert) }

// Root is the cluster root's certificate.
func (k *Keyring) Root() *x509.Certificate { return k.root.cert }

// UserSSH signs user SSH certificates.
func (k *Keyring) UserSSH() ssh.Signer { return k.userSSH }

// HostSSH signs host SSH certificates.
func (k *Keyring) HostSSH() ssh.Signer { return k.hostSSH }

// UserX509 returns the certificate and the key that sign user X.509 certificates. The certificate is
// self-signed: no chain leads from Root to a user's certificate.
func (k *Keyring) UserX509() (*x509.Certificate, crypto.Signer) {
	e := k.active(userX509)
	return e.cert, e.key
}

// ServiceX509 returns the certificate and the key that sign X.509 certificates of nodes, proxies and auth
// replicas. The certificate is an intermediate: Root has signed it.
func (k *Keyring) ServiceX509() (*x509.Certificate, crypto.Signer) {
	e := k.active(serviceX509)
	return e.cert, e.key
}

// RulesSigner signs the rules documents, with Ed25519.
func (k *Keyring) RulesSigner() crypto.Signer { return k.active(rules).key }

// RootKey returns the root key of a cluster that keeps it in the store, and false for one that does not.
func (k *Keyring) RootKey() (*RootKey, bool) {
	if k.root.key == nil {
		return nil, false
	}
	return &RootKey{cluster: k.cluster, cert: k.root.cert, key: k.root.key}, true
}

// TrustedKey is the public side of one key that verifiers trust.
type TrustedKey struct {
	Authority  Authority
	Generation int
	State      State
	Public     crypto.PublicKey
	Cert       *x509.Certificate // user-x509 and service-x509
}

// Trusted returns the public side of every key of the authorities, without the root. For each authority the
// active key comes first.
func (k *Keyring) Trusted() []TrustedKey {
	var out []TrustedKey
	for _, a := range authorities {
		for _, e := range k.sets[a] {
			out = append(out, TrustedKey{e.authority, e.generation, e.state, e.public, e.cert})
		}
	}
	return out
}

// Public has the public keys and certificates that verifiers trust. For each authority the active key comes
// first, then the next and previous ones.
type Public struct {
	UserSSH, HostSSH []ssh.PublicKey
	UserX509         []*x509.Certificate // self-signed
	ServiceX509      []*x509.Certificate // intermediates, signed by Root
	Rules            []ed25519.PublicKey
	Root             *x509.Certificate
}

// Public returns the public side of every authority. The slices are the caller's own.
func (k *Keyring) Public() Public {
	p := Public{Root: k.root.cert}
	p.UserSSH, p.HostSSH = k.sshKeys(userSSH), k.sshKeys(hostSSH)
	p.UserX509, p.ServiceX509 = k.certs(userX509), k.certs(serviceX509)
	for _, e := range k.sets[rules] {
		p.Rules = append(p.Rules, slices.Clone(e.public.(ed25519.PublicKey)))
	}
	return p
}

func (k *Keyring) sshKeys(a Authority) []ssh.PublicKey {
	var out []ssh.PublicKey
	for _, e := range k.sets[a] {
		pub, err := ssh.NewPublicKey(e.public)
		if err != nil {
			// open has checked the type of the key.
			panic("keyring: an opened SSH authority has no SSH key: " + err.Error())
		}
		out = append(out, pub)
	}
	return out
}

func (k *Keyring) certs(a Authority) []*x509.Certificate {
	var out []*x509.Certificate
	for _, e := range k.sets[a] {
		out = append(out, e.cert)
	}
	return out
}

// Wipe overwrites the private keys and the data key. Every later signature fails, and Secrets opens nothing.
// The standard library may keep derived copies of a key until they are garbage-collected; Go gives no way to
// overwrite those.
func (k *Keyring) Wipe() {
	k.secrets.Wipe()
	k.wipeKeys()
}

// wipeKeys overwrites the private keys, but not the data key.
func (k *Keyring) wipeKeys() {
	for _, set := range k.sets {
		for _, e := range set {
			e.key.wipe()
		}
	}
	if k.root != nil && k.root.key != nil {
		k.root.key.wipe()
	}
}

// String returns the cluster and its pin, and nothing of the private keys.
func (k *Keyring) String() string { return "keyring of " + k.cluster + " " + k.Pin().String() }

// Format prints String for every verb of fmt, also for %+v and %#v.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalJSON returns cluster and pin, so that a keyring in a log shows nothing else.
func (k *Keyring) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"cluster": k.cluster, "pin": k.Pin().String()})
}
