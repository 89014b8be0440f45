package tunnel

import "crypto/sha256"

// RulesPush is rules on their way to a node, opaque here.
type RulesPush struct {
	// Set is a whole rules.Set. At the node it may be missing: then the documents are those that came before.
	Set []byte
	// Head is the set's signed head alone. It changes every few seconds, while the documents stay for days.
	// At the node it is missing where none came after Set.
	Head []byte
	// DocsDigest tells the set's documents from others: equal where they are the same. The zero value is that
	// of no other.
	DocsDigest [sha256.Size]byte
}

// withOlder is what a node has not taken yet of two pieces of news: the newest set, and the head that came
// after it, if one did.
func (n RulesPush) withOlder(older RulesPush) RulesPush {
	if n.Set == nil {
		n.Set = older.Set
	}
	return n
}

// nextFrame is what must be sent to a node that has the documents sent last.
func (n RulesPush) nextFrame(heads bool, sent [sha256.Size]byte) (frameKind, []byte) {
	if heads && len(n.Head) > 0 && n.DocsDigest == sent && n.DocsDigest != [sha256.Size]byte{} {
		return frameHead, n.Head
	}
	return frameRules, n.Set
}
