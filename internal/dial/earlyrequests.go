package dial

import (
	"encoding/binary"
	"fmt"
)

// MaxEarlyRequestBytes bounds encoded early requests. A client sends what does not fit as channel requests of
// its own.
const MaxEarlyRequestBytes = 64 << 10

// ChannelRequest is a channel request (RFC 4254 section 5.4) that wants no reply.
type ChannelRequest struct {
	Type    string
	Payload []byte
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
