package keyring

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/threshold-access/threshold/internal/fault"
)

// Secrets seals and opens everything secret that a cluster stores, its authorities' private keys included,
// with the cluster's data key. The data key is stored too, wrapped once for each seal: so replicas may have
// different seals, and a change of the seal changes nothing but a wrap. The cluster and a name are bound to
// each ciphertext: what was sealed in another cluster or under another name does not open.
//
// A data key has a generation, which stands in what it has sealed. The newest seals. Secrets is safe for
// concurrent use.
type Secrets struct {
	cluster string
	newest  uint32

	mu   sync.RWMutex // guards keys
	keys func() map[uint32][]byte
}

// storedDataKey is one generation of the data key in the document.
type storedDataKey struct {
	Generation uint32    `json:"generation"` // 1 at first
	Created    time.Time `json:"created"`
	Wraps      []wrap    `json:"wraps"`
}

// wrap is a data key, sealed by one seal.
type wrap struct {
	Seal   string `json:"seal"` // Seal.ID
	URI    string `json:"uri"`  // Seal.URI, to tell an operator which key to look for
	Sealed []byte `json:"sealed"`
}

// wrapName is the name under which a data key is wrapped.
func wrapName(cluster string, generation uint32) string {
	return fmt.Sprintf("threshold/data-key/%s/%d", cluster, generation)
}

// newDataKey draws a data key of the generation, and returns it opened and wrapped for the seal.
func newDataKey(cluster string, generation uint32, seal Seal, now time.Time) (
	*Secrets, storedDataKey, error,
) {
	key := make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(key) // crypto/rand never fails since Go 1.24
	sealed, err := seal.Seal(wrapName(cluster, generation), key)
	if err != nil {
		clear(key)
		return nil, storedDataKey{}, err
	}
	stored := storedDataKey{
		Generation: generation,
		Created:    now,
		Wraps:      []wrap{{Seal: seal.ID(), URI: seal.URI(), Sealed: sealed}},
	}
	return newSecrets(cluster, map[uint32][]byte{generation: key}), stored, nil
}

func newSecrets(cluster string, keys map[uint32][]byte) *Secrets {
	s := &Secrets{cluster: cluster, keys: func() map[uint32][]byte { return keys }}
	for generation := range keys {
		s.newest = max(s.newest, generation)
	}
	return s
}

// openSecrets unwraps every generation of the data key. A seal for which none is wrapped is fault Invalid.
func (d *document) openSecrets(seal Seal) (*Secrets, error) {
	secrets := newSecrets(d.Cluster, map[uint32][]byte{})
	for _, stored := range d.DataKeys {
		key, err := stored.unwrap(d.Cluster, seal)
		if err != nil {
			secrets.Wipe()
			return nil, err
		}
		secrets.keys()[stored.Generation] = key
		secrets.newest = max(secrets.newest, stored.Generation)
	}
	return secrets, nil
}

// unwrap returns the data key of one generation.
func (s storedDataKey) unwrap(cluster string, seal Seal) ([]byte, error) {
	known := ""
	for _, w := range s.Wraps {
		if w.Seal != seal.ID() {
			known = w.URI
			continue
		}
		key, err := seal.Open(wrapName(cluster, s.Generation), w.Sealed)
		if err != nil {
			return nil, err
		}
		if len(key) != chacha20poly1305.KeySize {
			clear(key)
			return nil, damagedFault("the data key has a wrong size", errors.New("not 32 bytes"))
		}
		return key, nil
	}
	return nil, sealUnknown.New(opOpen, fault.Args{"seal": seal.URI(), "known": known})
}

// secretForm is the first byte of everything that Secrets has sealed: then come the generation of the data
// key (4 bytes, big endian), a random nonce of 24 bytes, and the ciphertext of XChaCha20-Poly1305. The byte
// differs from sealFormat, so that neither is taken for the other.
const secretForm = 2

// secretHeader is how many bytes precede the nonce.
const secretHeader = 1 + 4

// aead returns the cipher of one generation. The caller holds mu for reading while it uses the cipher.
func (s *Secrets) aead(generation uint32) (cipher.AEAD, error) {
	key, known := s.keys()[generation]
	if !known {
		return nil, fmt.Errorf("there is no data key of generation %d", generation)
	}
	return chacha20poly1305.NewX(key)
}

// associatedData binds a ciphertext to its header, to the cluster and to the name. No part can be taken for
// another, because neither a cluster nor a name has a zero byte.
func (s *Secrets) associatedData(header []byte, name string) []byte {
	return fmt.Appendf(header[:len(header):len(header)], "threshold secret\x00%s\x00%s", s.cluster, name)
}

// Seal encrypts a secret under a name, with the newest data key.
func (s *Secrets) Seal(name string, plaintext []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	aead, err := s.aead(s.newest)
	if err != nil {
		return nil, secretNotSealed.Wrap(err, "keyring.Seal")
	}
	const head = secretHeader + chacha20poly1305.NonceSizeX
	out := make([]byte, head, head+len(plaintext)+chacha20poly1305.Overhead)
	out[0] = secretForm
	binary.BigEndian.PutUint32(out[1:], s.newest)
	_, _ = rand.Read(out[secretHeader:]) // crypto/rand never fails since Go 1.24
	return aead.Seal(out, out[secretHeader:], plaintext, s.associatedData(out[:secretHeader], name)), nil
}

// Open decrypts what Seal encrypted under the name. Anything else is fault Invalid.
func (s *Secrets) Open(name string, sealed []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	const head = secretHeader + chacha20poly1305.NonceSizeX
	if len(sealed) < head+chacha20poly1305.Overhead || sealed[0] != secretForm {
		return nil, secretForeign.New(opSecret, fault.Args{"name": name})
	}
	aead, err := s.aead(binary.BigEndian.Uint32(sealed[1:]))
	if err != nil {
		return nil, secretForeign.Wrap(err, opSecret, fault.Args{"name": name})
	}
	ad := s.associatedData(sealed[:secretHeader], name)
	plain, err := aead.Open(nil, sealed[secretHeader:head], sealed[head:], ad)
	if err != nil {
		return nil, secretForeign.Wrap(err, opSecret, fault.Args{"name": name})
	}
	return plain, nil
}

// Wipe overwrites the data key. Seal and Open fail from then on.
func (s *Secrets) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.keys() {
		clear(key)
	}
	s.keys = func() map[uint32][]byte { return nil }
}

// String tells nothing of the key.
func (s *Secrets) String() string { return "secrets of " + s.cluster }

// Format prints String for every verb of fmt.
func (s *Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON returns String.
func (s *Secrets) MarshalJSON() ([]byte, error) { return []byte(`"[private]"`), nil }

// AddSeal wraps the data key of the keyring in the store for one seal more, so that a replica with that seal
// can open it. present is a seal that opens it now. A seal that is there already is not added again. What a
// newer release has written into the document stays. It returns fault Conflict when somebody else changes the
// keyring at the same time.
func AddSeal(ctx context.Context, store Store, present, added Seal) error {
	raw, err := store.Load(ctx)
	if err != nil {
		return err
	}
	doc, err := decode(raw)
	if err != nil {
		return err
	}
	// The document is changed in its raw form, where nothing that this program does not know is lost.
	var whole map[string]json.RawMessage
	var dataKeys []map[string]json.RawMessage
	err = errors.Join(json.Unmarshal(raw, &whole), json.Unmarshal(whole["data_keys"], &dataKeys))
	if err != nil {
		return damagedFault("unreadable", err)
	}
	for i, stored := range doc.DataKeys {
		if err := stored.addWrap(dataKeys[i], doc.Cluster, present, added); err != nil {
			return err
		}
	}
	if whole["data_keys"], err = json.Marshal(dataKeys); err != nil {
		return err
	}
	next, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	return store.Save(ctx, raw, next)
}

// addWrap adds a wrap for a seal to one data key in its raw form.
func (s storedDataKey) addWrap(
	raw map[string]json.RawMessage, cluster string, present, added Seal,
) error {
	key, err := s.unwrap(cluster, present)
	if err != nil {
		return err
	}
	defer clear(key)
	if slices.ContainsFunc(s.Wraps, func(w wrap) bool { return w.Seal == added.ID() }) {
		return nil
	}
	sealed, err := added.Seal(wrapName(cluster, s.Generation), key)
	if err != nil {
		return err
	}
	more, err := json.Marshal(wrap{Seal: added.ID(), URI: added.URI(), Sealed: sealed})
	if err != nil {
		return err
	}
	var wraps []json.RawMessage
	if err := json.Unmarshal(raw["wraps"], &wraps); err != nil {
		return damagedFault("unreadable", err)
	}
	raw["wraps"], err = json.Marshal(append(wraps, more))
	return err
}
