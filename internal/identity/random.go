package identity

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// ConnectionID names one connection of a client to a node. The proxy that the client came to draws it, and
// the logs of proxy and node and the audit log have it. It proves nothing.
type ConnectionID string

// InstanceID names one run of a program. The program draws it when it starts.
type InstanceID string

// NewConnectionID draws an id.
func NewConnectionID() ConnectionID { return ConnectionID(randomID()) }

// NewInstanceID draws an id.
func NewInstanceID() InstanceID { return InstanceID(randomID()) }

// Check returns an error unless id has the form in which ids are drawn.
func (id ConnectionID) Check() error { return checkRandomID("connection", string(id)) }

// Check returns an error unless id has the form in which ids are drawn.
func (id InstanceID) Check() error { return checkRandomID("instance", string(id)) }

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

func checkRandomID(what, id string) error {
	if !randomIDForm.Matches(id) {
		return fmt.Errorf("%s id %.80q is not 32 hexadecimal digits", what, id)
	}
	return nil
}
