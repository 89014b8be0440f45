// Package rootkey answers: where is the private key of a cluster's root?
//
// In a file, encrypted by age (https://age-encryption.org/v1) with a passphrase or for recipients, which an
// operator keeps away from every server. It is written once, before the cluster exists, and opened only on
// the operator's machine. No running replica calls this package.
package rootkey

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

const (
	opWrite = "rootkey.Write"
	opRead  = "rootkey.Read"
)

// Version of the content that this code writes, and the newest that it reads.
const Version = 1

// MinPassphrase is the least length of a passphrase, in bytes.
const MinPassphrase = 12

// maxFile bounds what is read of a file, in bytes. A valid one has about 2 kB.
const maxFile = 64 << 10

// content is what is encrypted in the file, as JSON.
type content struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Cluster  string        `json:"cluster"`
	Pin      identity.Pin  `json:"pin"`
	Cert     []byte        `json:"cert"` // DER
	Key      []byte        `json:"key"`  // PKCS #8
}

// Protection says how the file is encrypted: for recipients, or with a passphrase.
type Protection struct {
	Recipients []string // as age writes them: age1…
	Passphrase []byte   // at least MinPassphrase bytes; not together with recipients
}

// recipients returns the protection in age's form. It is fault Invalid for none, for both kinds, and for
// malformed ones.
func (p Protection) recipients() ([]age.Recipient, error) {
	switch {
	case len(p.Recipients) > 0 && len(p.Passphrase) > 0:
		return nil, protectionInvalid.New(opWrite, fault.Args{"why": "there are recipients and a passphrase"})
	case len(p.Recipients) > 0:
		parsed, err := age.ParseRecipients(strings.NewReader(strings.Join(p.Recipients, "\n")))
		if err != nil {
			why := "a recipient is not of the form age1…"
			return nil, protectionInvalid.Wrap(err, opWrite, fault.Args{"why": why})
		}
		return parsed, nil
	case len(p.Passphrase) < MinPassphrase:
		return nil, passphraseShort.New(opWrite, fault.Args{"min": MinPassphrase})
	}
	recipient, err := age.NewScryptRecipient(string(p.Passphrase))
	if err != nil {
		return nil, protectionInvalid.Wrap(err, opWrite, fault.Args{"why": "the passphrase is not usable"})
	}
	return []age.Recipient{recipient}, nil
}

// Check returns the fault of a protection that Write would refuse.
func (p Protection) Check() error {
	_, err := p.recipients()
	return err
}

// Write writes the key to a new file of mode 0600, encrypted. The file is durable when it returns. It never
// overwrites a file: when one exists, it returns fault Conflict. A file that could not be written whole is
// removed again.
func Write(path string, key *keyring.RootKey, p Protection) error {
	recipients, err := p.recipients()
	if err != nil {
		return err
	}
	text, err := encrypt(key, recipients)
	if err != nil {
		return fileNotWritten.Wrap(err, opWrite, fault.Args{"file": path})
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fileExists.Wrap(err, opWrite, fault.Args{"file": path})
	}
	if err != nil {
		return fileNotWritten.Wrap(err, opWrite, fault.Args{"file": path})
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fileNotWritten.Wrap(errors.Join(err, os.Remove(path)), opWrite, fault.Args{"file": path})
	}
	return fileNotWritten.Wrap(durable.SyncDir(filepath.Dir(path)), opWrite, fault.Args{"file": path})
}

// encrypt returns the text of the file.
func encrypt(key *keyring.RootKey, recipients []age.Recipient) ([]byte, error) {
	private, err := key.PKCS8()
	if err != nil {
		return nil, err
	}
	defer clear(private)
	plain, err := json.Marshal(content{
		V:       Version,
		Cluster: key.Cluster(),
		Pin:     key.Pin(),
		Cert:    key.Certificate().Raw,
		Key:     private,
	})
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, recipients...)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	err = errors.Join(err, w.Close(), armored.Close())
	return text.Bytes(), err
}

// Opening says how the file is decrypted.
type Opening struct {
	Passphrase []byte
	Identities []byte // the text of an age identity file (AGE-SECRET-KEY-1…)
}

func (o Opening) identities() ([]age.Identity, error) {
	if len(o.Identities) > 0 {
		return age.ParseIdentities(bytes.NewReader(o.Identities))
	}
	identity, err := age.NewScryptIdentity(string(o.Passphrase))
	return []age.Identity{identity}, err
}

// NeedsPassphrase reports whether the file is encrypted with a passphrase, and not for recipients. For a file
// that cannot be read as an encrypted one, it returns the fault of Read.
func NeedsPassphrase(path string) (bool, error) {
	text, err := readFile(path)
	if err != nil {
		return false, err
	}
	header, err := age.ExtractHeader(armor.NewReader(bytes.NewReader(text)))
	if err != nil {
		return false, fileForeign.Wrap(err, opRead, fault.Args{"file": path})
	}
	return bytes.Contains(header, []byte("-> scrypt ")), nil
}

// Read decrypts the file and returns the key in it. A file that does not exist is fault NotFound. A wrong
// passphrase, or identities that do not open it, are fault Denied. Anything else that is no root key file is
// fault Invalid.
func Read(path string, o Opening) (*keyring.RootKey, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	identities, err := o.identities()
	if err != nil {
		return nil, identitiesInvalid.Wrap(err, opRead)
	}
	plainText, err := age.Decrypt(armor.NewReader(bytes.NewReader(text)), identities...)
	var noMatch *age.NoIdentityMatchError
	if errors.As(err, &noMatch) {
		return nil, fileLocked.Wrap(err, opRead, fault.Args{"file": path})
	}
	if err != nil {
		return nil, fileForeign.Wrap(err, opRead, fault.Args{"file": path})
	}
	plain, err := io.ReadAll(io.LimitReader(plainText, maxFile))
	defer clear(plain)
	if err != nil {
		return nil, fileForeign.Wrap(err, opRead, fault.Args{"file": path})
	}
	return parse(path, plain)
}

// readFile returns the text of the file.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fileMissing.Wrap(err, opRead, fault.Args{"file": path})
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	return text, fileMissing.Wrap(err, opRead, fault.Args{"file": path})
}

// parse returns the key in the decrypted content. The private key, the certificate and the pin must belong
// together.
func parse(path string, plain []byte) (*keyring.RootKey, error) {
	foreign := func(err error) error { return fileForeign.Wrap(err, opRead, fault.Args{"file": path}) }
	var c content
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, foreign(errors.New("not JSON")) // the cause could quote bytes of the key
	}
	err := wire.Check("the root key file", c.V, Version, c.Critical, wire.Fields(content{})...)
	if err != nil {
		return nil, err
	}
	defer clear(c.Key)
	private, err := x509.ParsePKCS8PrivateKey(c.Key)
	signer, ok := private.(crypto.Signer)
	if err != nil || !ok {
		return nil, foreign(errors.New("no private key"))
	}
	cert, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return nil, foreign(err)
	}
	key, err := keyring.NewRootKey(c.Cluster, cert, signer)
	if err != nil {
		return nil, foreign(err)
	}
	if key.Pin() != c.Pin {
		return nil, foreign(errors.New("the pin is of another key"))
	}
	return key, nil
}
