package authorities

import (
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/rootkey"
)

// RootKeyOpening says how a root key file is decrypted: with a passphrase, or with identities of age.
type RootKeyOpening = rootkey.Opening

// OpenRootKey returns the root key in a file, for Sign. It is for the operator's machine: no replica calls
// it.
func OpenRootKey(path string, o RootKeyOpening) (*keyring.RootKey, error) {
	return rootkey.Read(path, o)
}

// NeedsPassphrase reports whether the file is opened with a passphrase, and not with an identity.
func NeedsPassphrase(path string) (bool, error) { return rootkey.NeedsPassphrase(path) }
