package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"go.step.sm/crypto/x509util"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Lifetimes of the authorities' own certificates. In practice a rotation ends them earlier.
const (
	rootYears      = 30
	authorityYears = 10
)

// maxCN is the upper bound of a commonName or organizationName (RFC 5280 appendix A.1, ub-common-name).
const maxCN = 64

// NewCluster is what Generate needs. All but RootInStore is required.
type NewCluster struct {
	Cluster string
	Store   Store
	Seal    Seal
	Now     time.Time
	// RootInStore keeps the root's private key in the store, sealed. It is for clusters that nobody relies
	// on: whoever takes over a running replica has the root too.
	RootInStore bool
}

// Generate creates the keys of a new cluster, of its root and its five authorities, saves them sealed, and
// returns them opened, with the root key. Unless the cluster keeps the root key, nobody else has it: the
// caller must keep it, before it makes what Generate saved known to anybody, and wipe it. When the store
// holds a keyring already, Generate returns fault Conflict and saves nothing. An unusable cluster name is
// fault Invalid.
func Generate(ctx context.Context, n NewCluster) (*Keyring, *RootKey, error) {
	if err := identity.CheckCluster(n.Cluster); err != nil {
		return nil, nil, clusterNameUnusable.Wrap(err, opGenerate, fault.Args{"why": err.Error()})
	}
	switch _, err := n.Store.Load(ctx); {
	case err == nil:
		return nil, nil, keyringExists.New(opGenerate)
	case !fault.Is(err, fault.NotFound):
		return nil, nil, fmt.Errorf("look for an older keyring: %w", err)
	}
	doc, rootKey, err := n.newDocument()
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's keys: %w", err)
	}
	keys, err := n.save(ctx, doc)
	if err != nil {
		rootKey.Wipe()
		return nil, nil, err
	}
	return keys, rootKey, nil
}

// save saves the document of a new cluster and returns it opened, so the new keys pass the same checks as
// after a restart.
func (n NewCluster) save(ctx context.Context, doc *document) (*Keyring, error) {
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the keyring: %w", err)
	}
	var noOld []byte // Save creates the document, and does not replace one that came since Load
	if err := n.Store.Save(ctx, noOld, raw); fault.Is(err, fault.Conflict) {
		return nil, keyringExists.Wrap(err, opGenerate)
	} else if err != nil {
		return nil, fmt.Errorf("save the keyring: %w", err)
	}
	return doc.open(n.Seal)
}

// newDocument creates the data key, and the keys and certificates of the root and of all authorities. It
// returns the document with the private keys sealed, and the root key. It saves nothing.
func (n NewCluster) newDocument() (*document, *RootKey, error) {
	now := n.Now.UTC().Truncate(time.Second)
	secrets, dataKey, err := newDataKey(n.Cluster, 1, n.Seal, now)
	if err != nil {
		return nil, nil, err
	}
	defer secrets.Wipe()
	rootKey, err := newRootKey(n.Cluster, now)
	if err != nil {
		return nil, nil, err
	}
	doc := &document{V: Version, Cluster: n.Cluster, Created: now, DataKeys: []storedDataKey{dataKey}}
	g := generator{doc: doc, secrets: secrets, root: rootKey, now: now}
	if err := g.addRoot(n.RootInStore); err != nil {
		rootKey.Wipe()
		return nil, nil, err
	}
	for _, a := range authorities {
		if err := g.addAuthority(authorityName{a, 1}, Active); err != nil {
			rootKey.Wipe()
			return nil, nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	return doc, rootKey, nil
}

// newRootKey creates the key and the certificate of a new cluster's root.
func newRootKey(cluster string, now time.Time) (*RootKey, error) {
	key, err := newKey(root)
	if err != nil {
		return nil, err
	}
	cert, err := signAuthority(authorityName{root, 1}, cluster, now, key.Public(), nil /* self-signed */, key)
	if err != nil {
		return nil, err
	}
	return NewRootKey(cluster, cert, key)
}

// generator adds keys to a document.
type generator struct {
	doc     *document
	secrets *Secrets
	root    *RootKey
	now     time.Time
}

// addRoot adds the root's public side to the document, and its private key too if the cluster keeps it.
func (g generator) addRoot(inStore bool) error {
	var private *secret
	if inStore {
		private = g.root.key
	}
	return g.addKey(authorityName{root, 1}, Active, g.root.key.Public(), private, g.root.cert)
}

// addAuthority creates a key of an authority and adds it to the document, with the private key sealed. An
// X.509 authority also gets a certificate: that of service-x509 is signed by the root, if its key is here,
// that of user-x509 by itself. The SSH and rules authorities have a key alone.
func (g generator) addAuthority(name authorityName, state State) error {
	plain, err := newKey(name.authority)
	if err != nil {
		return err
	}
	key := newSecret(plain)
	defer key.wipe()
	var cert *x509.Certificate // nil for an authority without a certificate
	switch name.authority {
	case userX509:
		cert, err = signAuthority(name, g.doc.Cluster, g.now, key.Public(), nil /* self-signed */, key)
	case serviceX509:
		if g.root.key != nil { // nil: the root signs it elsewhere
			cert, err = g.root.SignService(name.generation, key.Public(), g.now)
		}
	}
	if err != nil {
		return err
	}
	return g.addKey(name, state, key.Public(), key, cert)
}

// addKey adds a key to the document: the public key and the certificate as they are, the private key sealed
// under keyName. private is nil for an offline root, cert for an authority without a certificate.
func (g generator) addKey(
	name authorityName,
	state State,
	public crypto.PublicKey,
	private *secret,
	cert *x509.Certificate,
) error {
	stored := storedKey{
		Authority:  name.authority,
		Generation: name.generation,
		State:      state,
		Created:    g.now,
	}
	var err error
	if stored.Public, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	if cert != nil {
		stored.Cert = cert.Raw
	}
	if private != nil {
		if stored.Sealed, err = g.sealKey(name, private); err != nil {
			return err
		}
	}
	g.doc.Keys = append(g.doc.Keys, stored)
	return nil
}

// sealKey returns a private key as PKCS #8, sealed.
func (g generator) sealKey(name authorityName, key *secret) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key.reveal())
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	defer clear(plain)
	return g.secrets.Seal(keyName(g.root.Pin(), name.authority, name.generation), plain)
}

// newKey creates a key of the authority's type (see Authority.fits).
func newKey(a Authority) (crypto.Signer, error) {
	if a.hasCert() {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// signAuthority makes and signs the certificate of an X.509 authority with the public key pub. The issuer is
// parent, and key is the issuer's private key. A nil parent means self-signed: the certificate is its own
// issuer, and key is its own private key.
func signAuthority(
	name authorityName,
	cluster string,
	now time.Time,
	pub crypto.PublicKey,
	parent *x509.Certificate,
	key crypto.Signer,
) (*x509.Certificate, error) {
	bound := new(big.Int).Lsh(big.NewInt(1), 127) // 127 random bits are positive in 16 octets
	serial, err := rand.Int(rand.Reader, bound)
	if err != nil {
		return nil, fmt.Errorf("draw a serial: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // never zero
		Subject:               name.subject(cluster),
		NotBefore:             now.Add(-identity.Skew),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
	}
	// The extended key usages of an authority limit those of its certificates: no certificate under user-x509
	// is valid for a server.
	switch name.authority {
	case root: // it signs one level of authorities
		template.NotAfter = now.AddDate(rootYears, 0, 0)
		template.MaxPathLen, template.MaxPathLenZero = 1, false
	case userX509:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case serviceX509:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if selfSigned := parent == nil; selfSigned {
		parent = template
	}
	return x509util.CreateCertificate(template, parent, pub, key)
}

// authorityName names one key of one authority.
type authorityName struct {
	authority  Authority
	generation int // 1 at first, one more with each new key
}

// subject is the name in the authority's certificate. A cluster name that is too long is left out.
func (n authorityName) subject(cluster string) pkix.Name {
	out := pkix.Name{CommonName: fmt.Sprintf("Threshold %s %d", n.authority, n.generation)}
	if len(cluster) <= maxCN {
		out.Organization = []string{cluster}
	}
	return out
}
