"""The engine: sessions between owners and compute parties, and the run of a plan over real channels.

directory   the federation file: who is who, and who may deploy, query and receive which model
limits      what a party is willing to hold, and the account of its memory
quota       runs a minute and answers a day
audit       the log of what a party was asked and did, chained by hashes
counter     the persisted monotone counter of a party, and the lock on its folder
messages    what members of a session say besides the run itself
keys        session ids, pair keys, run keys
session     open a session at a party: channels, keys, comparison of the session id
waves       a plan bound to one role: which frames go where, wave by wave
executor    drive a bound plan over channels
store       weights and plans of a compute party
states      the caches of a session
policy      what a party checks before it accepts a plan
deploy      share a model's weights once
cost        what a plan costs, for people
effort      what the nodes of a plan compute, measured here
timing      how long a run will take on a named network
tree        costs by the modules of the user's model
report      what a run cost at every member
timeline    where one role spends the time of a run, as spans
trace       the timelines of a run joined with its plan, for people and for Perfetto
lobby       connections of other compute parties that wait for their session
status      the state of a party, told to members who ask
party       the compute party's process
owner       the owner's end of a session
injection   faults that a party commits and links that it slows on purpose, for tests, chaos and measurements
launch      start three compute parties on this machine
federation  the public interface
"""
