// Drives real libxmtp clients for the interop tests.
//
//   node driver.mjs <url of the XMTP node> <folder for databases>
//
// stdin:  one request per line, {"id", "method", "client"?, ...params}
// stdout: one answer per line, {"id", "ok"} or {"id", "error": {"message"}}, in order of completion;
//         what streams deliver, {"event": {"client", "kind", "value" or "error"}}, at any time.
// The process ends with its stdin. No error ends it earlier.
import { createInterface } from "node:readline";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import {
  ApiUrls,
  Client,
  ConsentState,
  GroupMessageKind,
  GroupPermissionsOptions,
  IdentifierKind,
  MetadataField,
  PermissionLevel,
  PermissionPolicy,
  PermissionUpdateType,
} from "@xmtp/node-sdk";
import { hexToBytes } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const [apiUrl, folder] = process.argv.slice(2);
// Client.create looks the inbox id up at ApiUrls[env], whatever its apiUrl option says.
ApiUrls.local = apiUrl;

// ---- names for libxmtp's numbers ----

const mapValues = (object, map) => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, map(value)]));
const namesOf = (numbers) => Object.fromEntries(Object.entries(numbers).map(([name, number]) => [number, name]));
const consentStates = { unknown: ConsentState.Unknown, allowed: ConsentState.Allowed, denied: ConsentState.Denied };
const consentNames = namesOf(consentStates);
const levelNames = namesOf({
  member: PermissionLevel.Member,
  admin: PermissionLevel.Admin,
  superAdmin: PermissionLevel.SuperAdmin,
});
const presets = {
  default: GroupPermissionsOptions.Default,
  adminOnly: GroupPermissionsOptions.AdminOnly,
  custom: GroupPermissionsOptions.CustomPolicy,
};
const presetNames = namesOf(presets);
const policies = {
  allow: PermissionPolicy.Allow,
  deny: PermissionPolicy.Deny,
  admin: PermissionPolicy.Admin,
  superAdmin: PermissionPolicy.SuperAdmin,
  doesNotExist: PermissionPolicy.DoesNotExist,
  other: PermissionPolicy.Other,
};
const policyNames = namesOf(policies);
const permissions = {
  addMember: PermissionUpdateType.AddMember,
  removeMember: PermissionUpdateType.RemoveMember,
  addAdmin: PermissionUpdateType.AddAdmin,
  removeAdmin: PermissionUpdateType.RemoveAdmin,
  updateMetadata: PermissionUpdateType.UpdateMetadata,
};
const metadataFields = {
  name: MetadataField.GroupName,
  description: MetadataField.Description,
  imageUrl: MetadataField.GroupImageUrlSquare,
  appData: MetadataField.AppData,
};

function oneOf(table, name) {
  if (!Object.hasOwn(table, name)) throw new Error(`${name} is none of ${Object.keys(table).join(", ")}`);
  return table[name];
}

// ---- what is held between requests ----

const clients = new Map(); // client id -> { sdk, streams: stream kind -> stream }
const identifier = (address) => ({ identifier: address.toLowerCase(), identifierKind: IdentifierKind.Ethereum });

function eoaSigner(privateKey) {
  const account = privateKeyToAccount(privateKey);
  return {
    type: "EOA",
    getIdentifier: () => identifier(account.address),
    signMessage: async (message) => hexToBytes(await account.signMessage({ message })),
  };
}

function clientOf({ client }) {
  const held = clients.get(client);
  if (!held) throw new Error(`no client ${client}`);
  return held;
}

const sdkOf = (request) => clientOf(request).sdk;

async function conversationOf(request) {
  const conversation = await sdkOf(request).conversations.getConversationById(request.groupId);
  if (!conversation) throw new Error(`client ${request.client} has no conversation ${request.groupId}`);
  return conversation;
}

// The signed text of an identity action has a resolution of one second, and wallet signatures are deterministic:
// an action repeated within that second would be refused as a replay.
const lastIdentitySecond = new Map(); // inbox id -> second of its last identity action
const second = () => Math.floor(Date.now() / 1000);

async function inFreshSecond(sdk, action) {
  while (lastIdentitySecond.get(sdk.inboxId) === second()) await pause(1000 - (Date.now() % 1000));
  try {
    return await action();
  } finally {
    lastIdentitySecond.set(sdk.inboxId, second());
  }
}

// ---- how things read on the line ----

const inboxIds = (inboxes) => inboxes.map(({ inboxId }) => inboxId);

function updated(change) {
  return {
    initiatedBy: change.initiatedByInboxId,
    added: inboxIds(change.addedInboxes),
    removed: inboxIds(change.removedInboxes),
    left: inboxIds(change.leftInboxes),
    addedAdmins: inboxIds(change.addedAdminInboxes),
    removedAdmins: inboxIds(change.removedAdminInboxes),
    addedSuperAdmins: inboxIds(change.addedSuperAdminInboxes),
    removedSuperAdmins: inboxIds(change.removedSuperAdminInboxes),
    fields: change.metadataFieldChanges.map(({ fieldName, oldValue, newValue }) => ({
      name: fieldName,
      old: oldValue ?? null,
      new: newValue ?? null,
    })),
  };
}

function message(decoded) {
  const contentType = decoded.contentType ? `${decoded.contentType.authorityId}/${decoded.contentType.typeId}` : "";
  return {
    id: decoded.id,
    groupId: decoded.conversationId,
    sender: decoded.senderInboxId,
    contentType,
    transcript: decoded.kind === GroupMessageKind.MembershipChange,
    text: contentType === "xmtp.org/text" ? decoded.content : null,
    updated: contentType === "xmtp.org/group_updated" ? updated(decoded.content) : null,
  };
}

async function shown(held) {
  const isGroup = "listAdmins" in held;
  const [members, debug] = await Promise.all([held.members(), held.debugInfo()]);
  const { policyType, policySet } = isGroup ? held.permissions() : {};
  return {
    id: held.id,
    isDm: !isGroup,
    name: isGroup ? held.name : "",
    description: isGroup ? held.description : "",
    imageUrl: isGroup ? held.imageUrl : "",
    appData: isGroup ? held.appData : "",
    isActive: held.isActive,
    isPendingRemoval: isGroup && held.isPendingRemoval(),
    consent: consentNames[held.consentState()],
    addedBy: held.addedByInboxId,
    creator: (await held.metadata()).creatorInboxId,
    pausedForVersion: held.pausedForVersion() ?? null,
    members: members.map((member) => ({
      inboxId: member.inboxId,
      installationIds: member.installationIds,
      addresses: member.accountIdentifiers.map((account) => account.identifier),
      level: levelNames[member.permissionLevel],
      consent: consentNames[member.consentState],
    })),
    admins: isGroup ? held.listAdmins() : [],
    superAdmins: isGroup ? held.listSuperAdmins() : [],
    preset: isGroup ? presetNames[policyType] : null,
    policies: isGroup ? mapValues(policySet, (policy) => policyNames[policy]) : null,
    epoch: Number(debug.epoch),
    maybeForked: debug.maybeForked,
    forkDetails: debug.forkDetails,
    isCommitLogForked: debug.isCommitLogForked ?? null,
    cursors: debug.cursor.map(({ originatorId, sequenceId }) => ({
      originator: Number(originatorId),
      sequence: Number(sequenceId),
    })),
  };
}

const inboxState = (state) => ({
  inboxId: state.inboxId,
  recoveryAddress: state.recoveryIdentifier.identifier,
  addresses: state.identifiers.map((account) => account.identifier),
  installationIds: state.installations.map(({ id }) => id),
});

function groupOptions({ name, description, preset, customPolicies }) {
  return {
    groupName: name,
    groupDescription: description,
    permissions: preset ? oneOf(presets, preset) : undefined,
    customPermissionPolicySet: customPolicies ? mapValues(customPolicies, (policy) => oneOf(policies, policy)) : undefined,
  };
}

const wantedConsent = (request) => request.consent?.map((name) => oneOf(consentStates, name));

// ---- streams ----

const streams = {
  messages: { open: (conversations, options) => conversations.streamAllMessages(options), read: message },
  conversations: { open: (conversations, options) => conversations.stream(options), read: ({ id }) => id },
};

async function stream({ client, kind, consent }) {
  const held = clientOf({ client });
  const { open, read } = oneOf(streams, kind);
  if (held.streams.has(kind)) throw new Error(`client ${client} streams ${kind} already`);
  const event = (what) => emit({ event: { client, kind, ...what } });
  let opening = true;
  const failures = []; // the SDK reports a failure to open like one that comes later
  const onError = (error) => (opening ? failures.push(error) : event({ error: error.message }));
  const opened = await open(held.sdk.conversations, {
    onValue: (value) => event({ value: read(value) }),
    onError,
    retryOnFail: false,
    ...(consent && { consentStates: wantedConsent({ consent }) }),
  });
  opening = false;
  if (failures.length) throw failures[0];
  held.streams.set(kind, opened);
}

async function endStream({ client, kind }) {
  const held = clientOf({ client });
  await held.streams.get(kind)?.end();
  held.streams.delete(kind);
}

// ---- the commands ----

const roleChanges = ["addAdmin", "removeAdmin", "addSuperAdmin", "removeSuperAdmin"];
const metadataSetters = {
  name: "updateName",
  description: "updateDescription",
  imageUrl: "updateImageUrl",
  appData: "updateAppData",
};

const commands = {
  async createClient({ client, privateKey, inMemory }) {
    if (clients.has(client)) throw new Error(`there is a client ${client} already`);
    const sdk = await Client.create(eoaSigner(privateKey), {
      env: "local",
      apiUrl,
      historySyncUrl: null,
      dbPath: inMemory ? null : join(folder, `${client}.db3`),
      disableDeviceSync: true,
      appVersion: "usher-tests/1",
    });
    clients.set(client, { sdk, streams: new Map() });
    return {
      inboxId: sdk.inboxId,
      installationId: sdk.installationId,
      address: sdk.accountIdentifier.identifier,
      libxmtpVersion: sdk.libxmtpVersion,
    };
  },

  // conversations
  sync: (request) => sdkOf(request).conversations.sync(),
  syncAll: async (request) => {
    const { numEligible, numSynced } = await sdkOf(request).conversations.syncAll(wantedConsent(request));
    return { eligible: Number(numEligible), synced: Number(numSynced) };
  },
  groups: (request) =>
    sdkOf(request)
      .conversations.listGroups({ consentStates: wantedConsent(request) })
      .map((group) => ({ id: group.id, name: group.name, isActive: group.isActive, consent: consentNames[group.consentState()] })),
  createGroup: async (request) => {
    const { conversations } = sdkOf(request);
    const options = groupOptions(request);
    const group = request.optimistic
      ? conversations.createGroupOptimistic(options)
      : await conversations.createGroup(request.inboxIds, options);
    return group.id;
  },
  createDm: async (request) => (await sdkOf(request).conversations.createDm(request.inboxId)).id,

  // one conversation
  conversation: async (request) => shown(await conversationOf(request)),
  syncConversation: async (request) => (await conversationOf(request)).sync(),
  publishMessages: async (request) => (await conversationOf(request)).publishMessages(),
  addMembers: async (request) => (await conversationOf(request)).addMembers(request.inboxIds),
  addAddresses: async (request) =>
    (await conversationOf(request)).addMembersByIdentifiers(request.addresses.map(identifier)),
  removeMembers: async (request) => (await conversationOf(request)).removeMembers(request.inboxIds),
  changeRole: async (request) => {
    if (!roleChanges.includes(request.change)) throw new Error(`${request.change} is none of ${roleChanges.join(", ")}`);
    return (await conversationOf(request))[request.change](request.inboxId);
  },
  setMetadata: async (request) =>
    (await conversationOf(request))[oneOf(metadataSetters, request.field)](request.value),
  setPermission: async (request) =>
    (await conversationOf(request)).updatePermission(
      oneOf(permissions, request.permission),
      oneOf(policies, request.policy),
      request.field ? oneOf(metadataFields, request.field) : undefined,
    ),
  setConsent: async (request) =>
    (await conversationOf(request)).updateConsentState(oneOf(consentStates, request.state)),
  requestRemoval: async (request) => (await conversationOf(request)).requestRemoval(),
  sendText: async (request) => (await conversationOf(request)).sendText(request.text, request.optimistic),
  messages: async (request) => (await (await conversationOf(request)).messages()).map(message),

  // streams
  stream,
  endStream,

  // identity
  canMessage: async (request) =>
    Object.fromEntries(await sdkOf(request).canMessage(request.addresses.map(identifier))),
  inboxStates: async (request) =>
    (await sdkOf(request).preferences.fetchInboxStates(request.inboxIds)).map(inboxState),
  keyPackages: async (request) => {
    const statuses = await sdkOf(request).fetchKeyPackageStatuses(request.installationIds);
    return mapValues(statuses, ({ lifetime, validationError }) => ({
      notBefore: lifetime ? Number(lifetime.notBefore) : null,
      notAfter: lifetime ? Number(lifetime.notAfter) : null,
      error: validationError ?? null,
    }));
  },
  revokeInstallations: async (request) => {
    const sdk = sdkOf(request);
    return inFreshSecond(sdk, () => sdk.revokeInstallations(request.installationIds.map((id) => hexToBytes(`0x${id}`))));
  },
  addAccount: async (request) => {
    const sdk = sdkOf(request);
    return inFreshSecond(sdk, () => sdk.unsafe_addAccount(eoaSigner(request.privateKey), true));
  },
  removeAccount: async (request) => {
    const sdk = sdkOf(request);
    return inFreshSecond(sdk, () => sdk.removeAccount(identifier(request.address)));
  },
};

// ---- the line ----

const emit = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function answer(line) {
  let id = null;
  try {
    const request = JSON.parse(line);
    id = request.id;
    emit({ id, ok: (await oneOf(commands, request.method)(request)) ?? null });
  } catch (error) {
    emit({ id, error: { message: String(error?.message ?? error) } });
  }
}

const complain = (error) => process.stderr.write(`driver: ${error?.stack ?? error}\n`);
process.on("uncaughtException", complain);
process.on("unhandledRejection", complain);
console.log = console.info = console.warn = (...words) => process.stderr.write(`${words.join(" ")}\n`);

createInterface({ input: process.stdin })
  .on("line", answer)
  .on("close", () => process.exit(0));
