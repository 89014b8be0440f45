package mux

import (
	"encoding/binary"
	"fmt"
)

// A frame is a header and, for data alone, as many bytes as its value says.
const (
	headerBytes = 10
	// maxPayload makes a whole frame fit into three TLS records (RFC 8446 section 5.1: 2^14 bytes), as many
	// as an SSH packet of full size takes.
	maxPayload = 48<<10 - headerBytes
	// maxCredit is how much either end may be allowed to send at once. Each end chooses its own windows, so
	// this is the bound of the format alone.
	maxCredit = 1<<31 - 1
)

// kind says what a frame means. Kinds are append-only. A reader must know kinds below firstIgnorable: an end
// sends a new one only after the greeting has shown that the other knows it. Of the kinds from there on, a
// reader skips those that it does not know, with as many bytes as their value says.
type kind uint8

const firstIgnorable kind = 0x80

const (
	kindOpen   kind = iota + 1 // begins a stream
	kindData                   // value bytes of a stream follow
	kindWindow                 // the peer may send value more bytes of a stream
	kindClose                  // flags say which directions end
	kindReset                  // the stream ends at once, with what is buffered; value is a Code
	kindPing                   // asks for a pong with the same value
	kindPong
)

// Flags of kindClose.
const (
	flagEnd  = 1 << iota // the sender sends no more data
	flagStop             // the sender reads no more data
)

// frame is a decoded header.
type frame struct {
	kind   kind
	flags  uint8
	stream uint32
	value  uint32
}

// append encodes f at the end of b.
func (f frame) append(b []byte) []byte {
	b = append(b, byte(f.kind), f.flags)
	b = binary.BigEndian.AppendUint32(b, f.stream)
	return binary.BigEndian.AppendUint32(b, f.value)
}

// bodyBytes is how many bytes follow the header.
func (f frame) bodyBytes() int {
	if f.kind == kindData || f.kind >= firstIgnorable {
		return int(f.value)
	}
	return 0
}

// parseFrame decodes a header. A frame of a known kind has one encoding, and every other one is refused.
func parseFrame(h [headerBytes]byte) (frame, error) {
	f := frame{
		kind:   kind(h[0]),
		flags:  h[1],
		stream: binary.BigEndian.Uint32(h[2:]),
		value:  binary.BigEndian.Uint32(h[6:]),
	}
	if f.kind >= firstIgnorable {
		if f.value > maxPayload {
			return frame{}, fmt.Errorf("mux: malformed frame %+v", f)
		}
		return f, nil
	}
	ofStream, flagsOK, valueOK := true, f.flags == 0, true
	switch f.kind {
	case kindOpen:
		valueOK = f.value == 0
	case kindData:
		valueOK = f.value > 0 && f.value <= maxPayload
	case kindWindow:
		valueOK = f.value > 0 && f.value <= maxCredit
	case kindClose:
		flagsOK, valueOK = f.flags > 0 && f.flags <= flagEnd|flagStop, f.value == 0
	case kindReset:
	case kindPing, kindPong:
		ofStream = false
	default:
		const format = "mux: the peer sent a frame of kind %d, this program reads kinds 1 to %d: update it"
		return frame{}, fmt.Errorf(format, f.kind, kindPong)
	}
	if !flagsOK || !valueOK || ofStream != (f.stream != 0) {
		return frame{}, fmt.Errorf("mux: malformed frame %+v", f)
	}
	return f, nil
}
