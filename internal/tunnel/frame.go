package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// frameKind is the kind of a frame. Append only; readers skip kinds that they do not know.
type frameKind byte

const (
	frameWelcome     frameKind = 1 // Welcome, proxy to node
	frameHello       frameKind = 2 // Hello, node to proxy
	frameResult      frameKind = 3 // greetingResult, proxy to node
	frameRules       frameKind = 4 // a piece of the rules, opaque here, proxy to node
	frameHeader      frameKind = 5 // Header, first on each session stream
	frameHead        frameKind = 6 // the signed head of the rules, opaque here, proxy to node
	frameRepeatRules frameKind = 7 // repeatRequest, node to proxy
	// frameAcknowledgement has the node's signed acknowledgement of the rules, opaque here, node to proxy.
	frameAcknowledgement frameKind = 8
)

// A frame is one byte of kind, four of length (big endian), and a body of that length.
const frameHeaderBytes = 5

// writeFrame writes one frame. After an error a part of the frame may have been written, so the caller must
// not write another.
func writeFrame(w io.Writer, kind frameKind, body []byte) error {
	if len(body) > MaxFrameBytes {
		return fmt.Errorf("tunnel: frame of %d bytes is larger than %d", len(body), MaxFrameBytes)
	}
	b := make([]byte, frameHeaderBytes, frameHeaderBytes+len(body))
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:], uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame reads one frame and returns its kind and body. It refuses a body of more than limit bytes before
// it allocates memory for it. The error wraps io.EOF if the stream ends before a frame.
func readFrame(r io.Reader, limit int) (frameKind, []byte, error) {
	var head [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("tunnel: read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[1:])
	if uint64(n) > uint64(limit) {
		return 0, nil, fmt.Errorf("tunnel: frame of %d bytes is larger than %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("tunnel: read frame: %w", err)
	}
	return frameKind(head[0]), body, nil
}

// readHeader reads the header of a session stream.
func readHeader(r io.Reader) (Header, error) {
	h, err := headerMessage.read(r)
	if err != nil {
		return Header{}, err
	}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

var (
	protocolForm = ascii.Form{First: ascii.Of("a-z"), Inner: ascii.Of("a-z"), Max: 16}
	// zoneForm is the form of the name of a network interface. A zone could be any text otherwise, and
	// addresses get into environment variables, login records and terminals.
	zoneForm = ascii.Form{First: zoneChar, Inner: zoneChar, Max: 15}
	zoneChar = ascii.Of("A-Za-z0-9._-")
)

// check returns an error for a header with a malformed field. All are the proxy's statements, and the node
// writes them into logs and environment variables.
func (h Header) check() error {
	if !wire.IsName(string(h.Service)) {
		return fmt.Errorf("tunnel: %.64q is not the name of a service", string(h.Service))
	}
	if !h.From.IsValid() {
		return errors.New("tunnel: the header has no address of the client")
	}
	if zone := h.From.Addr().Zone(); zone != "" && !zoneForm.Matches(zone) {
		return fmt.Errorf("tunnel: the client's address has the zone %.64q", zone)
	}
	if !protocolForm.Matches(h.Protocol) {
		return fmt.Errorf("tunnel: %.64q is not the name of a protocol", h.Protocol)
	}
	return errors.Join(
		identity.CheckMachineName(h.Proxy),
		identity.CheckMachineID(h.ProxyID),
		h.Connection.Check(),
	)
}
