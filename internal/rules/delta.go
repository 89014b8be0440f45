package rules

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Delta makes the payload of a document from the payload of an earlier version. Whoever applies it trusts
// nothing in it: the result is verified as a whole document is.
type Delta struct {
	From []byte `json:"from"` // SHA-256 of the payload that it is applied to
	To   []byte `json:"to"`   // SHA-256 of the result
	// Splices is a list of splices without anything between them. A splice is four pieces: the numbers at, n
	// and m (unsigned varints as in encoding/binary), and m bytes. It stands for n bytes of the earlier
	// payload, from at on, and then for the m bytes. All splices one after the other are the result.
	Splices []byte `json:"splices"`
	Sig     []byte `json:"sig"` // of the result
}

// blockBytes is the shortest text that diff recognizes when it has moved.
const blockBytes = 32

// diff returns the splices that make next from prev.
func diff(prev, next []byte) []byte {
	index := map[string]int{} // each block of prev, and where it is first
	for at := 0; at+blockBytes <= len(prev); at += blockBytes {
		block := string(prev[at : at+blockBytes])
		if _, known := index[block]; !known {
			index[block] = at
		}
	}
	var out []byte
	at, n := 0, 0 // the last copied run of prev; its splice is written when the text after it is known
	done := 0     // next[:done] is what the splices in out and the last run stand for
	shift := 0    // how much farther in prev the last run was than in next
	for i := 0; i+blockBytes <= len(next); {
		from, found := findBlock(prev, next[i:i+blockBytes], i+shift, index)
		if !found {
			i++
			continue
		}
		start := i
		for from > 0 && start > done && prev[from-1] == next[start-1] { // the run began earlier
			from, start = from-1, start-1
		}
		length := i + blockBytes - start
		for from+length < len(prev) && start+length < len(next) && prev[from+length] == next[start+length] {
			length++
		}
		out = appendSplice(out, at, n, next[done:start])
		at, n, shift = from, length, from-start
		i = start + length
		done = i
	}
	return appendSplice(out, at, n, next[done:])
}

// findBlock returns where the block is in prev: at expected, if it is there, or where index says.
func findBlock(prev, block []byte, expected int, index map[string]int) (at int, found bool) {
	if expected >= 0 && expected+len(block) <= len(prev) &&
		bytes.Equal(prev[expected:expected+len(block)], block) {
		return expected, true
	}
	at, found = index[string(block)]
	return at, found
}

// appendSplice appends a splice, unless it stands for nothing.
func appendSplice(out []byte, at, n int, text []byte) []byte {
	if n == 0 && len(text) == 0 {
		return out
	}
	out = binary.AppendUvarint(out, uint64(at))
	out = binary.AppendUvarint(out, uint64(n))
	out = binary.AppendUvarint(out, uint64(len(text)))
	return append(out, text...)
}

var errMalformedDelta = errors.New("rules: the delta is malformed")

// nextSplice returns the first splice of a list, and the rest of the list.
func nextSplice(list []byte) (at, n uint64, text, rest []byte, err error) {
	var numbers [3]uint64
	for i := range numbers {
		v, size := binary.Uvarint(list)
		if size <= 0 {
			return 0, 0, nil, nil, errMalformedDelta
		}
		numbers[i], list = v, list[size:]
	}
	if numbers[2] > uint64(len(list)) {
		return 0, 0, nil, nil, errMalformedDelta
	}
	return numbers[0], numbers[1], list[:numbers[2]], list[numbers[2]:], nil
}

// apply returns the payload that the delta makes from prev, in the memory of buf if that is large enough. The
// size of the result is known, and refused if it is too large, before memory is allocated for it. It does not
// check that the result is what the delta says.
func (d Delta) apply(buf, prev []byte) ([]byte, error) {
	size := 0
	for list := d.Splices; len(list) > 0; {
		at, n, text, rest, err := nextSplice(list)
		if err != nil {
			return nil, err
		}
		if at > uint64(len(prev)) || n > uint64(len(prev))-at {
			return nil, errMalformedDelta
		}
		if size += int(n) + len(text); size > MaxDocumentBytes {
			return nil, fmt.Errorf("rules: the delta makes a document larger than %d bytes", MaxDocumentBytes)
		}
		list = rest
	}
	payload := slices.Grow(buf[:0], size)
	for list := d.Splices; len(list) > 0; {
		at, n, text, rest, _ := nextSplice(list)
		payload = append(payload, prev[at:at+n]...)
		payload = append(payload, text...)
		list = rest
	}
	return payload, nil
}
