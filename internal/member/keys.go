package member

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// Files in the data directory.
const (
	hostKeyFile    = "host.key"        // Ed25519, PKCS#8
	serviceKeyFile = "service.key"     // ECDSA P-256, PKCS#8
	membershipFile = "membership.json" // certificates, pin and rules: everything that is public
)

// keys are the machine's private keys. They are made on this machine and never leave it.
type keys struct {
	host    ed25519.PrivateKey
	service *ecdsa.PrivateKey
}

// loadOrCreateKeys loads both private keys from dir, and makes and saves those that do not exist yet. After a
// join that was interrupted they exist: the next join uses the same keys.
func loadOrCreateKeys(dir string) (keys, error) {
	for _, name := range []string{hostKeyFile, serviceKeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		key, err := newKey(name)
		if err != nil {
			return keys{}, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return keys{}, fmt.Errorf("encode %s: %w", name, err)
		}
		if err := writeFile(dir, name,
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
			return keys{}, err
		}
	}
	return loadKeys(dir)
}

// newKey makes the private key for a file: Ed25519 for the host key, ECDSA P-256 for the service key.
func newKey(name string) (key crypto.PrivateKey, err error) {
	if name == hostKeyFile {
		_, key, err = ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func loadKeys(dir string) (k keys, err error) {
	if k.host, err = loadKey[ed25519.PrivateKey](dir, hostKeyFile); err != nil {
		return keys{}, err
	}
	if k.service, err = loadKey[*ecdsa.PrivateKey](dir, serviceKeyFile); err != nil {
		return keys{}, err
	}
	return k, nil
}

// loadKey reads the private key in the file name, which must be of type K. A file of another content is a
// damagedFault.
func loadKey[K any](dir, name string) (K, error) {
	var none K
	text, err := readFile(dir, name)
	if err != nil {
		return none, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return none, damagedFault(dir, fmt.Errorf("%s is not a PEM private key", name))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, damagedFault(dir, fmt.Errorf("%s: %w", name, err))
	}
	k, ok := key.(K)
	if !ok {
		return none, damagedFault(dir, fmt.Errorf("%s holds a %T", name, key))
	}
	return k, nil
}

// public returns both public keys in the form of authrpc.JoinRequest: the host key in SSH wire format, and
// the service key in PKIX DER.
func (k keys) public() (sshKey, x509Key []byte, err error) {
	pub, err := ssh.NewPublicKey(k.host.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("host key: %w", err)
	}
	x509Key, err = x509.MarshalPKIXPublicKey(k.service.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("service key: %w", err)
	}
	return pub.Marshal(), x509Key, nil
}
