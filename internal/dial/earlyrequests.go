package dial

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// MaxEarlyRequestBytes bounds encoded early requests. A client sends what does not fit as channel requests of
// its own.
const MaxEarlyRequestBytes = 64 << 10

// ClientVersion begins the version string of tsh, which reads faults: see ReadsFaults.
const ClientVersion = "SSH-2.0-tsh"

// MaxFaultBytes bounds a fault inside SSH.
const MaxFaultBytes = 4 << 10

// EndNotice is the name of a global request that wants no reply. By it a node tells tsh why the connection
// ends, if tsh has no session open. Its payload is a fault, as fault.MarshalObject writes it.
const EndNotice = "end-notice@threshold"

// ProgramFault is the name of a channel request that wants no reply. By it a node tells tsh why it refused or
// ended the program of a session. Its payload is a fault. The text for people is on standard error too.
const ProgramFault = "fault@threshold"

// ReadsFaults reports whether an SSH client with this version string reads faults, as fault.MarshalObject
// writes them. A node sends them to such a client: in the banner by which it refuses a login, as the
// description of a refused channel, in the reply to a refused global request, and by EndNotice and
// ProgramFault. Other clients get text for people in a banner and a description, and nothing in the other
// places: RFC 4254 section 4 has no field for it in a reply.
func ReadsFaults(clientVersion []byte) bool {
	return strings.HasPrefix(string(clientVersion), ClientVersion)
}

// serverVersionPrefix begins the version strings of servers that read early requests.
const serverVersionPrefix = "SSH-2.0-Threshold"

// ChannelRequest is a channel request (RFC 4254 section 5.4) that wants no reply.
type ChannelRequest struct {
	Type    string
	Payload []byte
}

// ReadsEarlyRequests reports whether an SSH server with this version string understands early requests. These
// are channel requests that a client puts into the message that opens a session channel, to save a round
// trip. They go where that message has data for the channel's type, which is empty for a session in RFC 4254
// (sections 5.1 and 6.1). The server treats them as if they came, in order, right after the channel was
// opened. A server that does not understand them would ignore or refuse them, so it must not get any.
func ReadsEarlyRequests(serverVersion []byte) bool {
	return strings.HasPrefix(string(serverVersion), serverVersionPrefix)
}

// MarshalEarlyRequests encodes requests: for each its type and payload, as two strings of RFC 4251 section 5.
// fits is false if they take more than MaxEarlyRequestBytes. The client must not send them then.
func MarshalEarlyRequests(list []ChannelRequest) (b []byte, fits bool) {
	for _, r := range list {
		if len(r.Type)+len(r.Payload) > MaxEarlyRequestBytes {
			return nil, false
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Type)))
		b = append(b, r.Type...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Payload)))
		b = append(b, r.Payload...)
	}
	return b, len(b) <= MaxEarlyRequestBytes
}

// ParseEarlyRequests decodes b, which MarshalEarlyRequests made at the other end. It returns an error for
// more than MaxEarlyRequestBytes, and for a request that is cut off. The payloads share memory with b.
func ParseEarlyRequests(b []byte) ([]ChannelRequest, error) {
	if len(b) > MaxEarlyRequestBytes {
		const format = "dial: early requests of %d bytes are larger than %d"
		return nil, fmt.Errorf(format, len(b), MaxEarlyRequestBytes)
	}
	var list []ChannelRequest
	for len(b) > 0 {
		requestType, afterType, ok := cutString(b)
		if !ok {
			return nil, fmt.Errorf("dial: early request %d has no whole type", len(list)+1)
		}
		payload, afterPayload, ok := cutString(afterType)
		if !ok {
			return nil, fmt.Errorf("dial: early request %d has no whole payload", len(list)+1)
		}
		list = append(list, ChannelRequest{Type: string(requestType), Payload: payload})
		b = afterPayload
	}
	return list, nil
}

// cutString splits b after a string in the encoding of RFC 4251 section 5, with which it begins: four bytes
// of length, then the bytes. ok is false if b is too short.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
