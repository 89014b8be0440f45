package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
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

// writeMessage writes v as JSON in a frame of at most MaxHeaderBytes.
func writeMessage(w io.Writer, kind frameKind, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("tunnel: encode: %w", err)
	}
	if len(body) > MaxHeaderBytes {
		return fmt.Errorf("tunnel: message of %d bytes is larger than %d", len(body), MaxHeaderBytes)
	}
	return writeFrame(w, kind, body)
}

// readMessage reads a frame of at most MaxHeaderBytes, which must be of the kind, and decodes its JSON into
// v.
func readMessage(r io.Reader, kind frameKind, v any) error {
	got, body, err := readFrame(r, MaxHeaderBytes)
	if err != nil {
		return err
	}
	if got != kind {
		return fmt.Errorf("tunnel: got a frame of kind %d, want kind %d", got, kind)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("tunnel: decode: %w", err)
	}
	return nil
}

// readHeader reads the header of a session stream.
func readHeader(r io.Reader) (Header, error) {
	var h Header
	if err := readMessage(r, frameHeader, &h); err != nil {
		return Header{}, err
	}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

var (
	protocolRE = regexp.MustCompile(`^[a-z]{1,16}$`)
	// zoneRE matches the name of a network interface. A zone could be any text otherwise, and addresses get
	// into environment variables, login records and terminals.
	zoneRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
)

// check returns an error for a header of another version, or with a malformed address or protocol. Both are
// the proxy's statements, and the node writes them into logs and environment variables.
func (h Header) check() error {
	if h.V != Version {
		return fmt.Errorf("tunnel: header version %d is not supported", h.V)
	}
	if len(h.From) > 64 {
		return fmt.Errorf("tunnel: the client's address is too long")
	}
	from, err := netip.ParseAddrPort(h.From)
	if err != nil {
		return fmt.Errorf("tunnel: the client's address: %w", err)
	}
	if zone := from.Addr().Zone(); zone != "" && !zoneRE.MatchString(zone) {
		return fmt.Errorf("tunnel: the client's address has the zone %q", zone)
	}
	if !protocolRE.MatchString(h.Protocol) {
		return fmt.Errorf("tunnel: %q is not the name of a protocol", h.Protocol)
	}
	return nil
}
