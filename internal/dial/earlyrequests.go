package dial

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// MaxEarlyRequestBytes bounds an opening, in bytes. A command that does not fit is asked for in requests of
// its own.
const MaxEarlyRequestBytes = 64 << 10

// ClientVersion is the version string of tsh. What begins so reads, in the reply to a global request that is
// refused, why: RFC 4254 section 4 has nothing there.
const ClientVersion = "SSH-2.0-tsh"

// EndNotice is the global request, without a reply, in which a node tells a tsh that has no session why the
// connection ends: lines as a session's standard error would get them.
const EndNotice = "end-notice@threshold"

// ReadsRefusalReasons reports whether an SSH client with this version string reads why a global request was
// refused, and EndNotice.
func ReadsRefusalReasons(clientVersion []byte) bool {
	return strings.HasPrefix(string(clientVersion), ClientVersion)
}

// serverVersionPrefix is what the version strings of servers that read openings begin with.
const serverVersionPrefix = "SSH-2.0-Threshold"

// ChannelRequest is one channel request (RFC 4254 section 5.4) that wants no reply.
type ChannelRequest struct {
	Type    string
	Payload []byte
}

// ReadsEarlyRequests reports whether an SSH server with this version string reads the type-specific data of a
// channel of type session (RFC 4254 section 5.1 and 6.1, where it is empty) as an opening: requests that it
// is to treat as if they had come right after the channel opened, in order. That spares the program a round
// trip. Others must not be sent any.
func ReadsEarlyRequests(serverVersion []byte) bool {
	return strings.HasPrefix(string(serverVersion), serverVersionPrefix)
}

// MarshalEarlyRequests encodes requests: for each the type and the payload, as two strings of RFC 4251
// section 5. It reports whether they fit.
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
		return nil, fmt.Errorf("dial: opening of %d bytes is larger than %d", len(b), MaxEarlyRequestBytes)
	}
	var list []ChannelRequest
	for len(b) > 0 {
		kind, rest, ok := cutString(b)
		if !ok {
			return nil, fmt.Errorf("dial: request %d of the opening has no whole type", len(list)+1)
		}
		payload, rest, ok := cutString(rest)
		if !ok {
			return nil, fmt.Errorf("dial: request %d of the opening has no whole payload", len(list)+1)
		}
		list, b = append(list, ChannelRequest{string(kind), payload}), rest
	}
	return list, nil
}

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
