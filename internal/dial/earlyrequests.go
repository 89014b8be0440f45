package dial

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// MaxEarlyRequestBytes bounds encoded early requests. A client sends what does not fit as channel requests of
// its own.
const MaxEarlyRequestBytes = 64 << 10

// ClientVersion is the version string of tsh. A client whose version begins with it reads, in the reply to a
// global request that failed, the reason, for which RFC 4254 section 4 has no field.
const ClientVersion = "SSH-2.0-tsh"

// EndNotice is a global request without reply, in which a node tells a tsh that has no session why the
// connection ends. It has the lines that a session would get on standard error.
const EndNotice = "end-notice@threshold"

// ReadsRefusalReasons reports whether an SSH client with this version string reads why a global request
// failed, and EndNotice.
func ReadsRefusalReasons(clientVersion []byte) bool {
	return strings.HasPrefix(string(clientVersion), ClientVersion)
}

// serverVersionPrefix begins the version strings of servers that read early requests.
const serverVersionPrefix = "SSH-2.0-Threshold"

// ChannelRequest is a channel request (RFC 4254 section 5.4) that wants no reply.
type ChannelRequest struct {
	Type    string
	Payload []byte
}

// ReadsEarlyRequests reports whether an SSH server with this version string reads early requests: channel
// requests in the type-specific data of the message that opens a session channel, which is empty in RFC 4254
// (sections 5.1 and 6.1). The server treats them as if they had come right after the channel was opened, in
// order. That saves a round trip. Other servers must not get any.
func ReadsEarlyRequests(serverVersion []byte) bool {
	return strings.HasPrefix(string(serverVersion), serverVersionPrefix)
}

// MarshalEarlyRequests encodes requests: for each the type and the payload, as two strings of RFC 4251
// section 5. It reports whether they fit into MaxEarlyRequestBytes.
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

// ParseEarlyRequests decodes what MarshalEarlyRequests encoded. The payloads share memory with b.
func ParseEarlyRequests(b []byte) ([]ChannelRequest, error) {
	if len(b) > MaxEarlyRequestBytes {
		return nil, fmt.Errorf("dial: early requests of %d bytes are larger than %d", len(b),
			MaxEarlyRequestBytes)
	}
	var list []ChannelRequest
	for len(b) > 0 {
		kind, rest, ok := cutString(b)
		if !ok {
			return nil, fmt.Errorf("dial: early request %d has no whole type", len(list)+1)
		}
		payload, rest, ok := cutString(rest)
		if !ok {
			return nil, fmt.Errorf("dial: early request %d has no whole payload", len(list)+1)
		}
		list, b = append(list, ChannelRequest{string(kind), payload}), rest
	}
	return list, nil
}

// cutString takes a string of RFC 4251 section 5 off the beginning of b.
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
