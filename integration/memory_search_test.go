//go:build integration

package integration

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/tsh/profile"
)

// keySet is a set of public keys by name. A private key is found in memory by the public key that belongs
// to it.
type keySet struct {
	ed25519 map[string]ed25519.PublicKey
	p256    map[string][]byte // uncompressed points
}

// authorities are the public keys of the cluster's CA, by the signed rules that a login stores on the client.
func authorities(t *testing.T, c *harness.Client) keySet {
	t.Helper()
	home, err := profile.Open(func(name string) string {
		for _, v := range c.Env {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := home.Current()
	if err != nil {
		t.Fatal(err)
	}
	p, err := home.Load(cluster)
	if err != nil {
		t.Fatal(err)
	}
	var doc rules.Document
	var a rules.Authorities
	if err := json.Unmarshal(p.Chain[len(p.Chain)-1].Payload, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc.Body, &a); err != nil {
		t.Fatal(err)
	}
	public := map[rules.Authority][]byte{}
	for _, key := range a.Keys {
		public[key.Authority] = key.Key
	}
	k := keySet{
		ed25519: map[string]ed25519.PublicKey{"rules": public[rules.RulesKey]},
		p256:    map[string][]byte{},
	}
	sshKeys := map[string][]byte{"user-SSH": public[rules.UserSSH], "host-SSH": public[rules.HostSSH]}
	for name, wire := range sshKeys {
		key, err := ssh.ParsePublicKey(wire)
		if err != nil {
			t.Fatal(err)
		}
		k.ed25519[name] = key.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	}
	certificates := map[string][]byte{
		"root":          a.Root,
		"user-X.509":    public[rules.UserX509],
		"service-X.509": public[rules.ServiceX509],
	}
	for name, der := range certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		// The point is the end of a P-256 key's SubjectPublicKeyInfo (RFC 5480 section 2.2).
		k.p256[name] = cert.RawSubjectPublicKeyInfo[len(cert.RawSubjectPublicKeyInfo)-65:]
	}
	return k
}

// in returns the names of the keys whose private key is in the memory.
func (k keySet) in(memory []byte) (found []string) {
	for name, pub := range k.ed25519 {
		if holdsSeed(memory, pub) {
			found = append(found, name)
		}
	}
	for i := 0; i+32 <= len(memory); i += 8 { // Go aligns allocations to 8 bytes
		window := memory[i : i+32]
		if !random(window) {
			continue
		}
		reversed := slices.Clone(window)
		slices.Reverse(reversed) // the words of a big.Int, lowest first
		found = k.try(found, window)
		found = k.try(found, reversed)
	}
	octets := []byte{0x04, 0x20} // an OCTET STRING of 32 bytes, as in PKCS #8 and SEC 1, at any place
	for i := bytes.Index(memory, octets); i >= 0 && i+34 <= len(memory); {
		if window := memory[i+2 : i+34]; random(window) {
			found = k.try(found, window)
		}
		next := bytes.Index(memory[i+1:], octets)
		if next < 0 {
			break
		}
		i += 1 + next
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// try adds the names of the P-256 keys whose private key is the scalar.
func (k keySet) try(found []string, scalar []byte) []string {
	key, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		return found
	}
	point := key.PublicKey().Bytes()
	for name, pub := range k.p256 {
		if bytes.Equal(point, pub) {
			found = append(found, name)
		}
	}
	return found
}

// random reports whether the window may be a key, so that the search skips all else: 32 random bytes have
// fewer than 20 different values once in 10^12 times.
func random(window []byte) bool {
	var seen [256]bool
	different := 0
	for _, b := range window {
		if !seen[b] {
			seen[b] = true
			different++
		}
	}
	return different >= 20
}

// holdsSeed reports whether the memory holds a seed followed by its public key, which is how crypto/ed25519
// stores a private key.
func holdsSeed(memory []byte, pub ed25519.PublicKey) bool {
	for at := 0; ; at++ {
		i := bytes.Index(memory[at:], pub)
		if i < 0 {
			return false
		}
		if at += i; at >= ed25519.SeedSize {
			key := ed25519.NewKeyFromSeed(memory[at-ed25519.SeedSize : at])
			if bytes.Equal(key[ed25519.SeedSize:], pub) {
				return true
			}
		}
	}
}
