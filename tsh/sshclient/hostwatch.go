package sshclient

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// Numbers of messages (RFC 4253 section 12, RFC 5656 section 7.1, RFC 4419 section 5). Both replies begin
// with the host key. In the exchange of RFC 4419, 31 has a prime in its place, which is no certificate.
const (
	msgNewKeys     = 21
	msgKexReply    = 31
	msgKexGexReply = 33
)

// Bounds of what a server sends before the connection is encrypted: a line before the packets, and a packet,
// as OpenSSH bounds them.
const (
	maxLineBytes   = 8 << 10
	maxPacketBytes = 256 << 10
)

// errNoHandshake is for bytes in which no host certificate can be found.
var errNoHandshake = hostCertificateHidden.New("")

// HostWatch reads the handshake between another program, whose bytes tsh only copies, and a node's SSH
// server. The host certificate is not encrypted there. The other program verifies it; HostWatch only finds
// out which machine it names, before the other program has the whole packet, by which the server proves that
// it is that machine.
type HostWatch struct {
	check       func(identity.MachineID) error
	pending     []byte // the line or packet that has not come as a whole
	versionSeen bool   // packets follow
	encrypted   bool   // there is nothing to see any more
}

// NewHostWatch returns a HostWatch that asks check about each machine id in a host certificate.
func NewHostWatch(check func(identity.MachineID) error) *HostWatch { return &HostWatch{check: check} }

// Read takes the next bytes of the server. The caller passes them on only if the error is nil: otherwise it
// is that of check, or a Denied fault for bytes that are no SSH handshake.
func (w *HostWatch) Read(b []byte) error {
	if w.encrypted {
		return nil
	}
	w.pending = append(w.pending, b...)
	for !w.encrypted {
		read := w.readPacket
		if !w.versionSeen {
			read = w.readLine
		}
		size, err := read()
		if err != nil || size == 0 {
			return err
		}
		w.pending = w.pending[size:]
	}
	w.pending = nil
	return nil
}

// readLine reads the next line, which is the server's version, or one before it (RFC 4253 section 4.2), and
// returns its size; 0: it has not come as a whole.
func (w *HostWatch) readLine() (size int, err error) {
	size = bytes.IndexByte(w.pending, '\n') + 1
	if size == 0 && len(w.pending) > maxLineBytes {
		return 0, errNoHandshake
	}
	w.versionSeen = size > 0 && bytes.HasPrefix(w.pending, []byte("SSH-"))
	return size, nil
}

// readPacket reads the next packet (RFC 4253 section 6), and returns its size; 0: it has not come as a whole.
func (w *HostWatch) readPacket() (size int, err error) {
	const head = 5 // four bytes of length, which counts what follows, and one with the length of the padding
	if len(w.pending) < head {
		return 0, nil
	}
	length, padding := binary.BigEndian.Uint32(w.pending), int(w.pending[4])
	if length > maxPacketBytes || int(length) < 1+padding+1 {
		return 0, errNoHandshake
	}
	size = 4 + int(length)
	if len(w.pending) < size {
		return 0, nil
	}
	payload := w.pending[head : size-padding]
	switch payload[0] {
	case msgNewKeys:
		w.encrypted = true
	case msgKexReply, msgKexGexReply:
		return size, w.checkHost(payload)
	}
	return size, nil
}

// checkHost asks check about the machine ids in the host certificate with which a reply of a key exchange
// begins, if it does.
func (w *HostWatch) checkHost(reply []byte) error {
	var fields struct {
		HostKey []byte `sshtype:"31|33"`
		Rest    []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(reply, &fields) != nil {
		return nil // whoever gets it cannot use it either
	}
	key, err := ssh.ParsePublicKey(fields.HostKey)
	if err != nil && bytes.Contains(fields.HostKey, []byte("-cert-v01@")) {
		return errNoHandshake // the other program might read it
	}
	for _, id := range identity.HostMachineIDs(key) {
		if err := w.check(id); err != nil {
			return err
		}
	}
	return nil
}
