package state

// Seal encrypts secrets before they are stored (it seals them), and decrypts them again (it opens them). A
// secret that was sealed under one name cannot be opened under another. The seals of ca/keyring implement it.
type Seal interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Vault is the access to records that hold secrets: connectors, second factors and login attempts. Without a
// Vault nobody can read a secret: a State holds no seal, and neither does a stolen disk. Like State, only the
// wiring of auth holds one, and hands out its parts. It is safe for concurrent use.
type Vault struct {
	Connectors *Connectors
	Factors    *Factors
	Attempts   *Attempts

	writer  writer // for CreateCluster
	secrets secrets
}

// NewVault stores secrets in s, encrypted by seal.
func NewVault(s *State, seal Seal) *Vault {
	sec := secrets{seal}
	return &Vault{
		Connectors: &Connectors{&ConnectorReader{s.Reader, sec}, s.writer},
		Factors:    &Factors{s.writer, sec},
		Attempts:   &Attempts{s.writer, sec},
		writer:     s.writer,
		secrets:    sec,
	}
}

// secrets seals and opens the secrets of records.
type secrets struct{ seal Seal }

// sealText seals a secret under the key of its record. An empty secret stays empty.
func (s secrets) sealText(key, secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	return s.seal.Seal(key, []byte(secret))
}

// openText reverses sealText.
func (s secrets) openText(key string, sealed []byte) (string, error) {
	if len(sealed) == 0 {
		return "", nil
	}
	plain, err := s.seal.Open(key, sealed)
	return string(plain), err
}
