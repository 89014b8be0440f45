// Package keyring answers: which keys sign now?
//
// A cluster has one root and five authorities, each with a key of its own: user-ssh, host-ssh, user-x509,
// service-x509 and rules. They are born together, kept as one versioned document in a Store, and every
// private key in it is sealed under a key that the Store never sees (Seal). Opening the document proves each
// key: what unseals must match the public part and certificate beside it, so whoever can write to the store
// but has no seal cannot slip in a key that verifiers would trust.
//
// Only ca and the wiring of auth call it. A Keyring does not change once opened and is safe for concurrent
// use.
package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Store keeps the one document. It need not keep it secret; it must not lose it.
type Store interface {
	// Load returns the document, or fault.NotFound when the cluster is unborn.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces old by new, or creates new where old is nil. It gives fault.Conflict when what is kept is
	// not old.
	Save(ctx context.Context, old, new []byte) error
}

// Keyring holds a cluster's opened keys.
type Keyring struct {
	cluster string
	root    *entry
	sets    map[Authority][]*entry // active first
	userSSH ssh.Signer
	hostSSH ssh.Signer
}

// entry is one opened key of one authority.
type entry struct {
	authority  Authority
	generation int
	state      State
	public     crypto.PublicKey
	cert       *x509.Certificate // root, user-x509 and service-x509
	key        *secret           // nil: kept offline (the root alone)
}

// Open loads the document and unseals every key in it.
func Open(ctx context.Context, st Store, seal Seal) (*Keyring, error) {
	const op = "keyring.Open"
	raw, err := st.Load(ctx)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.Wrap(
			err,
			fault.NotFound,
			op,
			"this cluster has no keys yet",
			"run once: threshold start --bootstrap FILE",
		)
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

func (d *document) open(seal Seal) (*Keyring, error) {
	k := &Keyring{cluster: d.Cluster, sets: map[Authority][]*entry{}}
	for _, s := range d.Keys {
		e, err := s.open(d.Cluster, seal)
		if err != nil {
			return nil, err
		}
		if s.Authority == root {
			k.root = e
			continue
		}
		k.sets[s.Authority] = append(k.sets[s.Authority], e)
	}
	for _, set := range k.sets {
		slices.SortStableFunc(set, func(a, b *entry) int { return a.state.rank() - b.state.rank() })
	}
	if err := k.checkTrees(); err != nil {
		return nil, damaged("the certificates of its authorities do not belong together", err)
	}
	return k, k.makeSSH()
}

// checkTrees holds that the root and user-x509 sign themselves, that every service-x509 hangs under the root,
// and that all are authorities.
func (k *Keyring) checkTrees() error {
	if err := k.root.cert.CheckSignatureFrom(k.root.cert); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, e := range k.sets[userX509] {
		if err := e.cert.CheckSignatureFrom(e.cert); err != nil {
			return fmt.Errorf("%s: %w", e.authority, err)
		}
	}
	for _, e := range k.sets[serviceX509] {
		if err := e.cert.CheckSignatureFrom(k.root.cert); err != nil {
			return fmt.Errorf("%s: %w", e.authority, err)
		}
	}
	for _, e := range slices.Concat(k.sets[userX509], k.sets[serviceX509]) {
		if !e.cert.IsCA || bytes.Equal(e.cert.RawSubjectPublicKeyInfo, k.root.cert.RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%s: is no authority of its own", e.authority)
		}
	}
	return nil
}

func (k *Keyring) makeSSH() (err error) {
	if k.userSSH, err = ssh.NewSignerFromSigner(k.active(userSSH).key); err != nil {
		return fmt.Errorf("%s signer: %w", userSSH, err)
	}
	if k.hostSSH, err = ssh.NewSignerFromSigner(k.active(hostSSH).key); err != nil {
		return fmt.Errorf("%s signer: %w", hostSSH, err)
	}
	return nil
}

// active is the entry that signs; decode has made sure there is exactly one.
func (k *Keyring) active(a Authority) *entry { return k.sets[a][0] }

// Cluster is the name the keys were born for.
func (k *Keyring) Cluster() string { return k.cluster }

// Pin is the SHA-256 of the cluster root's public key.
func (k *Keyring) Pin() identity.Pin { return identity.PinOf(k.root.cert) }

// Root is the cluster root's certificate.
func (k *Keyring) Root() *x509.Certificate { return k.root.cert }

// UserSSH signs user SSH certificates.
func (k *Keyring) UserSSH() ssh.Signer { return k.userSSH }

// HostSSH signs host SSH certificates.
func (k *Keyring) HostSSH() ssh.Signer { return k.hostSSH }

// UserX509 signs user X.509 certificates. The certificate is a root of its own.
func (k *Keyring) UserX509() (*x509.Certificate, crypto.Signer) {
	e := k.active(userX509)
	return e.cert, e.key
}

// ServiceX509 signs X.509 certificates of nodes, proxies and auth. The certificate is an intermediate under
// Root.
func (k *Keyring) ServiceX509() (*x509.Certificate, crypto.Signer) {
	e := k.active(serviceX509)
	return e.cert, e.key
}

// RulesSigner signs the rules documents: Ed25519.
func (k *Keyring) RulesSigner() crypto.Signer { return k.active(rules).key }

// RootSigner signs the first authorities document, and in emergencies. It fails when the root key is kept
// offline.
func (k *Keyring) RootSigner() (crypto.Signer, error) {
	if k.root.key == nil {
		return nil, fault.New(
			fault.Unavailable,
			"keyring.RootSigner",
			"the cluster root key is kept offline",
			"bring the root key back for this ceremony",
		)
	}
	return k.root.key, nil
}

// Public is what verifiers trust. In each set the active key comes first, then next and previous ones.
type Public struct {
	UserSSH, HostSSH []ssh.PublicKey
	UserX509         []*x509.Certificate // self-signed, a tree of its own
	ServiceX509      []*x509.Certificate // intermediates under Root
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
			panic(
				"keyring: an opened SSH authority has no SSH key: " + err.Error(),
			) // open proved the key type
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

// Wipe overwrites the private keys, as far as Go lets a program do so: the standard library may hold derived
// copies until they are collected. Every later signature fails.
func (k *Keyring) Wipe() {
	for _, set := range k.sets {
		for _, e := range set {
			e.key.wipe()
		}
	}
	if k.root.key != nil {
		k.root.key.wipe()
	}
}

// String names the keyring and shows nothing of its keys.
func (k *Keyring) String() string { return "keyring of " + k.cluster + " " + k.Pin().String() }

// Format keeps every fmt verb, %+v and %#v too, to String.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalJSON gives cluster and pin, so that a logged keyring shows nothing else.
func (k *Keyring) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"cluster": k.cluster, "pin": k.Pin().String()})
}
