// Package authorities answers: which keys do verifiers trust, and how does that change?
//
// The keyring has the keys of the authorities; the authorities document tells verifiers their public side. Of
// makes the one from the other.
package authorities

import (
	"crypto/ed25519"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca/keyring"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// Of returns the body of the authorities document for a keyring: the root, and the public keys and
// certificates of all authorities with their generations and states.
func Of(keys *keyring.Keyring) (signed.Authorities, error) {
	body := signed.Authorities{Root: keys.Root().Raw}
	for _, k := range keys.Trusted() {
		entry, err := entryOf(k)
		if err != nil {
			return signed.Authorities{}, fmt.Errorf("%s, generation %d: %w", k.Authority, k.Generation, err)
		}
		body.Keys = append(body.Keys, entry)
	}
	return body, nil
}

// entryOf returns the entry of one key. The names of authorities and states are the same in the keyring and
// in the document.
func entryOf(k keyring.TrustedKey) (signed.AuthorityKey, error) {
	authority, state := signed.Authority(k.Authority), signed.State(k.State)
	switch authority {
	case signed.UserSSH, signed.HostSSH:
		key, err := ssh.NewPublicKey(k.Public)
		if err != nil {
			return signed.AuthorityKey{}, err
		}
		return signed.SSHKey(authority, k.Generation, state, key), nil
	case signed.UserX509, signed.ServiceX509:
		return signed.X509Key(authority, k.Generation, state, k.Cert), nil
	case signed.RulesKey:
		key, ok := k.Public.(ed25519.PublicKey)
		if !ok {
			return signed.AuthorityKey{}, fmt.Errorf("a key of type %T cannot sign rules", k.Public)
		}
		return signed.SigningKey(k.Generation, state, key), nil
	}
	return signed.AuthorityKey{}, fmt.Errorf("an authority that verifiers do not know")
}
