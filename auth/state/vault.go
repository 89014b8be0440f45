package state

// Seal encrypts secrets that are stored. A secret that was sealed under one name opens under no other. The
// seals of ca/keyring implement it.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Vault reads and writes the records that hold secrets: connectors and second factors. Without a Vault nobody
// can read a secret: a State holds no seal, and neither does a stolen disk. It is safe for concurrent use.
type Vault struct {
	writer writer
	seal   Seal
}

// NewVault stores secrets in s, encrypted by seal.
func NewVault(s *State, seal Seal) *Vault { return &Vault{writer: s.writer, seal: seal} }

// sealText seals a secret under the key of its record. An empty secret stays empty.
func (v *Vault) sealText(key, secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	return v.seal.Seal(key, []byte(secret))
}

// openText reverses sealText.
func (v *Vault) openText(key string, sealed []byte) (string, error) {
	if len(sealed) == 0 {
		return "", nil
	}
	plain, err := v.seal.Open(key, sealed)
	return string(plain), err
}
