// Package feature has the settings that card.yaml, card.json, the agent and
// what does the work share: one struct a feature. Its tags are the model:
//
//	yaml, json  the key in card.yaml and in card.json, the same in both
//	doc         what the key does, for the schema
//	enum        the values that a string may have, separated by |
//	default     what an absent value means; words, where the type is neither a
//	            string, a number nor a text, are for a person alone
//	absent      the same in words, for the schema, where a program finds it out
//	min, max    bounds of a number, or of the length of a list
//	mode        the only mode of the card in which the key means something
//	critical    "true": a card that does not know the key must refuse it
//
// The schema, the defaults, the checks of both files and the list of critical
// keys are made from them. CONTRIBUTING.md says how to add a key.
package feature
