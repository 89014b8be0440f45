package rules

import (
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Authority names one of the cluster's signing keys. Append only.
type Authority string

// The authorities that this program knows. A verifier needs an active key of each.
const (
	UserSSH     Authority = "user-ssh"     // signs users' SSH certificates
	HostSSH     Authority = "host-ssh"     // signs host certificates
	UserX509    Authority = "user-x509"    // signs users' X.509 certificates; signed by itself
	ServiceX509 Authority = "service-x509" // signs X.509 certificates of machines; signed by the root
	RulesKey    Authority = "rules"        // signs documents and heads
)

var authorities = []Authority{UserSSH, HostSSH, UserX509, ServiceX509, RulesKey}

// State says what a key is used for during a rotation. Verifiers trust the keys of all three states. Append
// only.
type State string

const (
	Active   State = "active"   // signs
	Next     State = "next"     // will sign
	Previous State = "previous" // signs no more
)

// states are the known states, in the order in which verifiers list keys.
var states = []State{Active, Next, Previous}

// Authorities is the body of the authorities document: the keys and certificates that verifiers trust.
type Authorities struct {
	Root []byte         `json:"root"` // DER; its key's hash is the pin
	Keys []AuthorityKey `json:"keys"`
}

// AuthorityKey is one key of one authority. A reader ignores a key of an authority or state that it does not
// know, which means that it does not trust it, unless the key is critical.
type AuthorityKey struct {
	Authority  Authority `json:"authority"`
	ID         string    `json:"id"`         // of the public key: see keyID
	Generation int       `json:"generation"` // 1 at first, one more with each rotation
	State      State     `json:"state"`
	// Key is the public key. SSH: in SSH wire format. X.509: the authority's certificate in DER. Rules: the
	// 32 bytes of an Ed25519 key.
	Key      []byte `json:"key"`
	Critical bool   `json:"critical,omitempty"`
}

// SSHKey returns the entry for a key that signs SSH certificates.
func SSHKey(a Authority, generation int, s State, key ssh.PublicKey) AuthorityKey {
	id := ""
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		id = keyID(k.CryptoPublicKey())
	}
	return AuthorityKey{Authority: a, ID: id, Generation: generation, State: s, Key: key.Marshal()}
}

// X509Key returns the entry for the certificate of an authority that signs X.509 certificates.
func X509Key(a Authority, generation int, s State, cert *x509.Certificate) AuthorityKey {
	id := keyID(cert.PublicKey)
	return AuthorityKey{Authority: a, ID: id, Generation: generation, State: s, Key: cert.Raw}
}

// SigningKey returns the entry for a key that signs documents and heads.
func SigningKey(generation int, s State, key ed25519.PublicKey) AuthorityKey {
	return AuthorityKey{Authority: RulesKey, ID: keyID(key), Generation: generation, State: s, Key: key}
}

// keyID returns the id of a public key: the first 16 bytes of the SHA-256 of its SubjectPublicKeyInfo, in
// hexadecimal. It is empty for a key that has no such form.
func keyID(key crypto.PublicKey) string {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:16])
}

// ParsedAuthorities has the content of Authorities in the form that verifiers use. In each list the active
// key comes first, then the next and the previous ones.
type ParsedAuthorities struct {
	Root         *x509.Certificate
	UserSSH      []ssh.PublicKey
	HostSSH      []ssh.PublicKey
	UserRoots    *x509.CertPool      // the user X.509 authorities
	ServiceRoots *x509.CertPool      // the service X.509 authorities, without the cluster root
	Service      []*x509.Certificate // those in ServiceRoots
	rules        []crypto.PublicKey  // the keys that may sign documents and heads
}

// parse parses the keys and certificates. It returns an error if an authority has no active key or two, if a
// user X.509 authority is not signed by itself, or if a service X.509 authority is not signed by the root;
// and a fault for a critical key that this program does not know.
func (a Authorities) parse() (parsed ParsedAuthorities, err error) {
	if parsed.Root, err = x509.ParseCertificate(a.Root); err != nil {
		return parsed, fmt.Errorf("authorities: root: %w", err)
	}
	keys, err := a.knownKeys()
	if err != nil {
		return parsed, err
	}
	parsed.UserRoots, parsed.ServiceRoots = x509.NewCertPool(), x509.NewCertPool()
	for _, k := range keys {
		if err := k.addTo(&parsed); err != nil {
			return parsed, fmt.Errorf("authorities: %s, generation %d: %w", k.Authority, k.Generation, err)
		}
	}
	return parsed, nil
}

// knownKeys returns the keys of authorities and states that this program knows, sorted by state. Each
// authority has exactly one active key, and no generation twice.
func (a Authorities) knownKeys() ([]AuthorityKey, error) {
	type generation struct {
		authority Authority
		number    int
	}
	var keys []AuthorityKey
	active, seen := map[Authority]int{}, map[generation]bool{}
	for _, k := range a.Keys {
		if !slices.Contains(authorities, k.Authority) || !slices.Contains(states, k.State) {
			if k.Critical {
				return nil, authorityUnknown.New("rules", fault.Args{
					"authority": k.Authority,
					"state":     k.State,
				})
			}
			continue
		}
		g := generation{k.Authority, k.Generation}
		if k.Generation < 1 || seen[g] {
			return nil, fmt.Errorf("authorities: %s: generation %d is there twice, or is not positive",
				k.Authority, k.Generation)
		}
		seen[g] = true
		if k.State == Active {
			active[k.Authority]++
		}
		keys = append(keys, k)
	}
	for _, name := range authorities {
		if active[name] != 1 {
			return nil, fmt.Errorf("authorities: %s has %d active keys, want 1", name, active[name])
		}
	}
	rank := func(k AuthorityKey) int { return slices.Index(states, k.State) }
	slices.SortStableFunc(keys, func(x, y AuthorityKey) int { return cmp.Compare(rank(x), rank(y)) })
	return keys, nil
}

// addTo parses the key and adds it to the list of its authority. It returns an error for a key of the wrong
// form, and for one with another id than it says.
func (k AuthorityKey) addTo(parsed *ParsedAuthorities) error {
	var public crypto.PublicKey
	switch k.Authority {
	case UserSSH, HostSSH:
		key, err := parseSSH(k.Key)
		if err != nil {
			return err
		}
		public = key.CryptoPublicKey()
		list := &parsed.UserSSH
		if k.Authority == HostSSH {
			list = &parsed.HostSSH
		}
		*list = append(*list, key)
	case UserX509, ServiceX509:
		cert, err := x509.ParseCertificate(k.Key)
		if err != nil {
			return err
		}
		public = cert.PublicKey
		if err := parsed.addCertificate(k.Authority, cert); err != nil {
			return err
		}
	case RulesKey:
		if len(k.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("key of %d bytes", len(k.Key))
		}
		public = ed25519.PublicKey(k.Key)
		parsed.rules = append(parsed.rules, public)
	}
	if id := keyID(public); id == "" || id != k.ID {
		return fmt.Errorf("the id %.40q is not that of the key", k.ID)
	}
	return nil
}

// addCertificate adds the certificate of an authority to its pool. It must be signed by the root, or by
// itself if it is a user authority's.
func (p *ParsedAuthorities) addCertificate(a Authority, cert *x509.Certificate) error {
	if a == UserX509 {
		p.UserRoots.AddCert(cert)
		return cert.CheckSignatureFrom(cert)
	}
	p.ServiceRoots.AddCert(cert)
	p.Service = append(p.Service, cert)
	return cert.CheckSignatureFrom(p.Root)
}

// plainSSHKey is a public key in SSH wire format that is no certificate.
type plainSSHKey interface {
	ssh.PublicKey
	ssh.CryptoPublicKey
}

// parseSSH parses a public key in SSH wire format. It returns an error for a certificate in place of a key.
func parseSSH(b []byte) (plainSSHKey, error) {
	k, err := ssh.ParsePublicKey(b)
	if err != nil {
		return nil, err
	}
	if _, isCertificate := k.(*ssh.Certificate); isCertificate {
		return nil, fmt.Errorf("there is a certificate where a plain key is expected")
	}
	plain, ok := k.(plainSSHKey)
	if !ok {
		return nil, fmt.Errorf("there is a key of type %s, which cannot be an authority's", k.Type())
	}
	return plain, nil
}

// checkPin returns an error unless the root's key has the pin.
func (p ParsedAuthorities) checkPin(pin identity.Pin) error {
	_, err := identity.RootByPin([]*x509.Certificate{p.Root}, pin)
	return err
}
