package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// RecordVersion is the newest Record format this code writes. Later versions only append fields.
const RecordVersion = 1

// Record is the issuance record: what the cluster keeps of one issuance.
type Record struct {
	V             int               `json:"v"`             // RecordVersion of the release that wrote it
	Serial        identity.Serial   `json:"serial,string"` // text, because JSON numbers lose bits past 2^53
	Profile       Profile           `json:"profile"`
	Identity      identity.Identity `json:"identity"`
	Principals    []string          `json:"principals,omitempty"` // user: logins; host and service: names
	SourceAddress []netip.Prefix    `json:"source_address,omitempty"`
	Extensions    []string          `json:"extensions,omitempty"`
	NotBefore     time.Time         `json:"not_before"`
	NotAfter      time.Time         `json:"not_after"`
	SSHDigest     Digest            `json:"ssh_sha256,omitzero"`  // of the certificate in SSH wire form
	X509Digest    Digest            `json:"x509_sha256,omitzero"` // of the certificate in DER
}

// Digest is a SHA-256. Its text form is 64 hex digits. The zero value means that there is no such
// certificate.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText returns 64 hex digits.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 64 hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(d) {
		return fmt.Errorf("digest is not %d hex digits", 2*len(d))
	}
	copy(d[:], raw)
	return nil
}

// newRecord is the issuance record of the draft d and its signed certificates, out. The digests are of the
// signed certificates, so that the record identifies the very bytes that Release returns.
func newRecord(d *draft, out Issued) Record {
	r := Record{
		V:             RecordVersion,
		Serial:        d.serial,
		Profile:       d.profile,
		Identity:      d.id,
		Principals:    d.principals,
		SourceAddress: d.sources,
		Extensions:    d.permits,
		NotBefore:     d.from,
		NotAfter:      d.until,
	}
	if out.SSH != nil {
		r.SSHDigest = sha256.Sum256(out.SSH.Marshal())
	}
	if out.X509 != nil {
		r.X509Digest = sha256.Sum256(out.X509.Raw)
	}
	return r
}
