package rules

import (
	"crypto"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// MaxAcknowledgementBytes bounds the payload of an acknowledgement.
const MaxAcknowledgementBytes = 2 << 10

// Acknowledgement is a machine's statement by which rules it decides. The machine signs it with the key of
// its service certificate, so whoever passes it on can hold it back, and cannot change it.
type Acknowledgement struct {
	V        int                `json:"v"`
	Critical wire.Critical      `json:"critical,omitempty"` // names of fields that a reader must know
	Machine  identity.MachineID `json:"machine"`
	// Epoch and Sequence are those of the head in force when it was signed. They order the acknowledgements
	// of a machine: its rules do not go back.
	Epoch    uint64   `json:"epoch"`
	Sequence Sequence `json:"sequence"`
	// Docs has every kind of document that the machine reads.
	Docs map[Kind]Acknowledged `json:"docs"`
	// Time is when it was signed, by the clock of the machine, which may be wrong.
	Time time.Time `json:"time"`
}

// Acknowledged is what a machine says of one kind of document.
type Acknowledged struct {
	Revision Revision `json:"revision,omitzero"` // in force; zero: the head names no document of the kind
	Reader   int      `json:"reader"`            // the newest version of its format that the machine reads
}

var acknowledgementFields = wire.Fields(Acknowledgement{})

// Acknowledge signs that the machine decides by t. key is that of its service certificate.
func (t *Trust) Acknowledge(key crypto.Signer, machine identity.MachineID, now time.Time) (Signed, error) {
	a := Acknowledgement{
		V:        Version,
		Machine:  machine,
		Epoch:    t.Head.Epoch,
		Sequence: t.Head.Sequence,
		Docs:     map[Kind]Acknowledged{},
		Time:     now.UTC(),
	}
	for kind, newest := range newestVersion {
		a.Docs[kind] = Acknowledged{Revision: t.Head.Docs[kind].Revision, Reader: newest}
	}
	return sign(key, acknowledgementKind, a)
}

// VerifyAcknowledgement returns the acknowledgement if key signed it. Key must be the service key of a
// machine, and the caller checks that the acknowledgement is of that machine. An acknowledgement that needs a
// newer program is a fault of kind Invalid.
func VerifyAcknowledgement(s Signed, key crypto.PublicKey) (Acknowledgement, error) {
	var a Acknowledgement
	if len(s.Payload) > MaxAcknowledgementBytes {
		const format = "rules: acknowledgement of %d bytes is larger than %d"
		return a, fmt.Errorf(format, len(s.Payload), MaxAcknowledgementBytes)
	}
	if err := s.verify(acknowledgementKind, key); err != nil {
		return a, err
	}
	err := wire.Unmarshal("the acknowledgement of the rules", s.Payload, &a, Version, acknowledgementFields)
	if err != nil {
		return Acknowledgement{}, err
	}
	return a, nil
}

// Newer reports whether a is of a later head than o, or was signed later under the same one. The time does
// not matter otherwise: a wrong clock does not make a machine look silent.
func (a Acknowledgement) Newer(o Acknowledgement) bool {
	switch {
	case a.Epoch != o.Epoch:
		return a.Epoch > o.Epoch
	case a.Sequence != o.Sequence:
		return o.Sequence.Before(a.Sequence)
	}
	return a.Time.After(o.Time)
}

// Has reports whether the machine reads the kind, and decides by this revision or a later one.
func (a Acknowledgement) Has(kind Kind, r Revision) bool {
	doc := a.Docs[kind]
	return doc.Reader > 0 && !doc.Revision.Before(r)
}
